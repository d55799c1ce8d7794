"""The packages of an m.json, resolved as its build would resolve them, and where they come from."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from buildstep.build import package_resolution, secrets
from buildstep.build.doctor import attempts
from buildstep.build.doctor.findings import Examination
from buildstep.build.doctor.network import reach
from buildstep.errors import BuildstepError, ExitCode, InstallError
from buildstep.events import Bus, Event, Note
from buildstep.images.locks import ImageLocks
from buildstep.images.record import root_in
from buildstep.pool.interface import Backend, Kind
from buildstep.pool.journal import open_journal
from buildstep.rootfs.interface import NamesRepositories, Resolution
from buildstep.rootfs.packaging import Host, Packaging, prepare_packaging
from buildstep.system import host
from buildstep.system.text import plural

_BEFORE = frozenset(("privileges", "kernel", "pool", "image", "tools", "installer"))
"""Areas whose errors end a build before it asks for packages."""

_ANY_AGE = 100 * 365 * 86400.0
"""Seconds that an index may be old where no newer one can be had."""

_SHOWN = 10
"""How many of a kind are told one by one."""


def resolved(seen: Examination) -> None:
    """Whether each package can be had in its version and architecture, and whether each repository answers.

    The image's own package manager is asked, by the code of a build, in a clone of the base image that is
    gone afterwards. What stays in the pool is the index it fetched, which the build then uses.
    """
    spec, backend = seen.spec, seen.backend
    if spec is None or backend is None or not (spec.packages or spec.upgrade_first):
        return
    if any(found.level == "error" and found.area in _BEFORE for found in seen.findings):
        return
    if seen.image is None:
        what = "not resolved: the base image, whose package manager knows them, is not in the store"
        fix = f"`buildstep image import {spec.image}` brings it; then the doctor asks"
        seen.warn("packages", ", ".join(spec.packages[:_SHOWN]) or "upgrade", what, fix)
        return

    def ask() -> str:
        return json.dumps(_findings(seen, backend))

    # Mounts of the clone, and what runs there, are seen by nobody else and gone with it.
    for row in json.loads(attempts.apart(ask) if host.HERE.namespaces else ask()):
        _add(seen, **row)


def _add(seen: Examination, level: str, where: str, what: str, fix: str = "", code: int = 0) -> None:
    match level:
        case "ok":
            seen.ok("packages", where, what)
        case "warning":
            seen.warn("packages", where, what, fix)
        case _:
            seen.fail("packages", where, what, fix, code)


def _row(level: str, where: str, what: str, fix: str = "", code: int = 0) -> dict[str, Any]:
    return {"level": level, "where": where, "what": what, "fix": fix, "code": code}


def _failed(where: str, error: BuildstepError) -> dict[str, Any]:
    detail = error.detail.partition("\n")[0].strip()
    what = f"{error.message} ({detail})" if detail and detail not in error.message else error.message
    return _row("error", where, what, error.hint, int(error.code))


# -- in the clone -------------------------------------------------------------------------------------------


def _findings(seen: Examination, backend: Backend) -> list[dict[str, Any]]:
    """Enter a clone of the base image, and return what is found there as arguments of `_add`."""
    rows: list[dict[str, Any]] = []
    notes: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Note) and event.level == "warning":
            notes.append(event.text)

    bus = Bus(hear)
    try:
        with _packaging(seen, backend, bus) as packages:
            rows += _of_repositories(seen, packages)
            rows += _of_packages(packages, bus)
    except BuildstepError as error:
        rows.append(_failed("resolving", error))
    return [*(_row("warning", "resolving", note, "the build tells it too") for note in notes), *rows]


@contextlib.contextmanager
def _packaging(seen: Examination, backend: Backend, bus: Bus) -> Iterator[Packaging]:
    assert seen.spec is not None
    assert seen.image is not None
    with contextlib.ExitStack() as stack:
        stack.enter_context(ImageLocks(backend.state, bus.note).using(seen.image.uuid))
        journal = stack.enter_context(open_journal(backend.state, "doctor"))
        name = journal.dataset(f"{journal.ident}-1")
        stack.callback(backend.destroy, Kind.BUILD, name)
        clone = backend.clone(Kind.IMAGE, seen.image.uuid, name)
        root = root_in(Path(clone.path), seen.image.manifest)
        names = seen.spec.installer_options.secrets
        shown = secrets.read(seen.spec, names, root, environ=seen.environ, bus=bus)
        on = Host(
            state=backend.state,
            bus=bus,
            environ=seen.environ,
            download=_no_download,
            secrets=shown.files,
            env=dict(shown.env),
        )
        yield stack.enter_context(prepare_packaging(seen.spec, root, on, base=seen.image.tree_digest))


def _no_download(url: str) -> bytes:
    raise InstallError(f"the doctor fetches no package files, such as {url}")


def _of_packages(packages: Packaging, bus: Bus) -> list[dict[str, Any]]:
    """Resolve the packages with the index as a build would have it; without a network, with the kept one."""
    rows, begin = [], time.time()
    try:
        index, fetched = packages.refresh(hurry=True, max_age=packages.spec.index_max_age)
    except InstallError as error:
        try:
            index, fetched = packages.refresh(hurry=True, max_age=_ANY_AGE)
        except InstallError:
            return [_failed("index", error)]
        what = f"{error.message}: the index of {_age(begin - fetched)} ago is asked"
        rows.append(_row("warning", "index", what, error.hint or "is this machine offline?"))
    where = ", ".join(packages.spec.packages[:_SHOWN]) or "upgrade"
    try:
        answer, index, _ = package_resolution.ask(bus, packages, index, fetched, begin)
    except InstallError as error:
        return [*rows, _failed(where, error)]
    return [*rows, *_of_answer(packages, answer, known=bool(index))]


def _age(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def _of_answer(packages: Packaging, answer: Resolution, *, known: bool) -> list[dict[str, Any]]:
    """Say what each package resolves to. known: whether there is an index that has all names."""
    rows = []
    versions, installer = answer.versions, packages.installer.name
    for package in packages.spec.packages:
        name = re.split("[=/]", package)[0]
        found = versions.get(name) or next(
            (version for key, version in versions.items() if f"{key}-{version}" == package), ""
        )
        if found:
            rows.append(_row("ok", package, f"{found} can be had"))
        elif answer.exact:
            rows.append(_row("ok", package, "is in the base image"))
        elif known and re.fullmatch(r"[A-Za-z0-9_.+-]+", package):
            what = f"{installer} has no package of that name"
            fix = "is the name right? Its index is asked as a build asks it"
            rows.append(_row("error", package, what, fix, int(ExitCode.INSTALL)))
        else:
            lacks = "cannot be asked for a pattern or a file" if known else "has no index here"
            rows.append(_row("ok", package, f"{installer} {lacks}: only the build can tell"))
    gone = sorted(name for name, version in versions.items() if not version)
    if gone:
        what = f"{plural(len(gone), 'package')} would be removed: {', '.join(gone[:_SHOWN])}"
        rows.append(
            _row("warning", "resolving", what, "take them into the list to keep them, if they are needed")
        )
    if answer.exact:
        count = sum(map(bool, versions.values()))
        rows.append(_row("ok", "resolving", f"{plural(count, 'package')} would be installed or upgraded"))
    return rows


def _of_repositories(seen: Examination, packages: Packaging) -> list[dict[str, Any]]:
    """Ask each repository of the image for its index, from this machine."""
    rows: list[dict[str, Any]] = []
    installer: object = packages.installer  # of another package, it may be older than `repositories`
    if not isinstance(installer, NamesRepositories):
        return rows
    for urls in installer.repositories(packages.job)[:_SHOWN]:
        if urlsplit(urls[0]).scheme not in ("http", "https"):
            continue
        answers = []
        for url in urls:
            answers.append(reach(url, seen.environ, ok=range(200, 300)))
            if not answers[-1].problem:
                rows.append(_row("ok", answers[-1].shown, f"answers in {answers[-1].seconds:.2f} s"))
                break
        else:
            fix = "is the image's source right, and the network up? A mirror can be named"
            rows.append(_row("warning", answers[0].shown, answers[0].problem, fix))
    return rows
