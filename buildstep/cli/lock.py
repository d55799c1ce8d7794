"""`buildstep lock`: write down what an image is made of, so that later builds take the same."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import build, values
from buildstep.cli.inputs import find_inputs
from buildstep.cli.options import JSON, short_path, show

if TYPE_CHECKING:
    from buildstep.build.make_lock import Room
    from buildstep.spec.fields import BuildSpec
    from buildstep.spec.lock import Lock


def _locked(context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    """Offer the packages of the lock of the m.json that is named, or that is here."""
    from buildstep.spec import document, lock

    words = context.params.get("words") or ()
    named = find_inputs(words, context.params.get("manifest_arg")).manifest
    source = named or document.default_manifest(Path.cwd())
    path = lock.path_of(source, Path.cwd()) if source else None
    found = lock.read(path) if path is not None else None
    yield from (row.name for row in found.packages) if found is not None else ()


@click.command(
    "lock",
    epilog="Exit codes: 0 done, 24 with --check: not current; and where something that is locked is gone, "
    "2 usage, 11 image, 12 install.",
)
@click.option(
    "--update",
    "updates",
    multiple=True,
    metavar="PACKAGE",
    shell_complete=values.callback(_locked),
    help="Another version of this package alone, and of what that needs: the newest, or PACKAGE=VERSION.",
)
@click.option("--check", is_flag=True, help="Change nothing; say what a lock made now would have.")
@JSON
@click.option("-v", "--verbose", count=True, help="Show the tools' output.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors and the result.")
def command(
    words: tuple[str, ...],
    manifest_arg: str | None,
    defines: dict[str, str],
    updates: tuple[str, ...],
    check: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Write the lock of an m.json, m.lock.json beside it: the base image and each package file, by digest.

    Builds of the m.json take exactly these from then on; see docs/how-to/lock.md.

    The base is the one that a build would take now (--pull: asked for again), packages are those that the
    repository has at this moment. Their files are in the cache then, so that builds here need no mirror.
    """
    from buildstep.cli import session, user_namespace
    from buildstep.errors import UsageError
    from buildstep.spec import lock, locking

    if check and updates:
        raise click.UsageError("--check changes nothing, and --update does: give one of them")
    view = {"verbose": flags.pop("verbose"), "silent": flags["quiet"], "quiet": flags.pop("quiet")}
    manifest_arg, flags["proto"] = find_inputs(words, manifest_arg)
    if flags.pop("pull"):
        flags["base_max_age"] = 0
    document = build.read_here(manifest_arg, defines, profiles=flags.pop("profiles"))
    if lock.path_of(document.source, Path.cwd()) is None:
        raise UsageError("only an m.json in a file has a lock beside it", hint="name the file")
    spec = build.load_spec(document, {**flags, "locked": False})
    path = locking.path_for(spec, Path.cwd(), document.profiles)
    assert path is not None
    old = lock.read(path)
    if check or updates:
        spec = _with(spec, old, path)
    user_namespace.enter(build.named_pool(spec), packages=True)

    def job() -> int:
        opened = session.open_session(build.named_pool(spec), store=build.named_store(spec), **view)
        from buildstep.build.make_lock import Room

        room = Room(store=opened.store, bus=opened.bus, environ=opened.environ)
        if check:
            return _check(spec, room, path, as_json=as_json)
        return _write(spec, room, old, path, updates, as_json=as_json)

    return session.enclosed(job)


_SHARED = (
    "words", "manifest_arg", "dir", "image", "packages", "upgrade_first", "installer", "order", "owner",
    "exclude", "replace", "base_max_age", "pull", "platform", "network", "pool", "defines", "profiles",
)  # fmt: skip
command.params[:0] = [param for param in build.command.params if param.name in _SHARED]
"""What a build is told that decides what it takes; the same words mean the same."""


def _with(spec: BuildSpec, old: Lock | None, path: Path) -> BuildSpec:
    """Return the spec with its lock. Raises LockError where there is none, or one of something else."""
    from buildstep.errors import LockError
    from buildstep.spec import locking

    hint = f"`buildstep lock {spec.source}` writes it"
    if old is None:
        raise LockError(f"there is no lock {path}", hint=hint)
    if wrong := old.asked.differences(locking.asked(spec)):
        raise LockError(
            f"{path} is not about what {spec.source} asks for: {'; '.join(wrong)}", hint=f"{hint} anew"
        )
    return replace(spec, lock=old)


def _check(spec: BuildSpec, room: Room, path: Path, *, as_json: bool) -> int:
    from buildstep.build import make_lock
    from buildstep.errors import ExitCode

    found = make_lock.check(spec, room)
    lines = found or [f"{short_path(path)} is current"]
    show({"lock": os.fspath(path), "current": not found, "changes": found}, lines, as_json=as_json)
    return ExitCode.LOCK if found else ExitCode.OK


def _write(
    spec: BuildSpec, room: Room, old: Lock | None, path: Path, updates: Sequence[str], *, as_json: bool
) -> int:
    from buildstep.build import make_lock
    from buildstep.errors import UsageError
    from buildstep.spec import lock

    new = make_lock.update(spec, room, updates) if updates else make_lock.make(spec, room)
    said = make_lock.differences(old, new)
    if old is not None and replace(new, date=old.date, tools=old.tools) == old:
        new = old  # it was made at another time, by other tools
    else:
        try:
            lock.write(path, new)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    count = len(new.packages)
    result = {
        "lock": os.fspath(path), "base": new.base.uuid, "packages": count, "changes": said,
    }  # fmt: skip
    lines = [*said, f"{short_path(path)}: {new.base.label}, {count} packages"]
    show(result, lines, as_json=as_json, done=f"the lock was written: {short_path(path)}")
    return 0
