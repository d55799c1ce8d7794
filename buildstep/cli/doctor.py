"""`buildstep doctor`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from buildstep.cli import build
from buildstep.cli.inputs import find_inputs
from buildstep.cli.options import JSON, echo, print_json, read_stdin
from buildstep.errors import BuildstepError, Fault, SpecError
from buildstep.system.text import plural

if TYPE_CHECKING:
    from buildstep.build.doctor import Examination, Finding
    from buildstep.spec.fields import BuildSpec

_AGENT = '{"name": "any", "version": "0", "build": {"image": "scratch"}}'
"""The m.json where none is given: a build that needs nothing."""

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command(
    "doctor",
    epilog="Exit codes: 0 it can, perhaps with warnings; else that of the first error, with which the build "
    "would end: 2 usage, 5 a tool or privilege is missing, 6 a disk is too small, 10 dataset, 11 image, "
    "12 install, 13 sandbox, 14 emit.",
)
@JSON
@click.option("-q", "--quiet", is_flag=True, help="Only what is wrong.")
def command(
    words: tuple[str, ...],
    manifest_arg: str | None,
    defines: dict[str, str],
    profiles: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **flags: object,
) -> int:
    """Check whether this machine can build an m.json, and if not, why and what to do.

    Looked at: privileges, tools and their versions, what the kernel allows (by trying), the pool and its
    room, what dead builds left, the base image, its package manager, the output directory, the network
    to the sources, the packages, and the clock. Packages are resolved in a clone of the base image, if that
    is in the store; the index that was fetched for it stays for the build, and nothing else is changed.
    Where no MANIFEST is named and none is here: what any build needs.
    """
    from buildstep.build import doctor
    from buildstep.cli import session, user_namespace
    from buildstep.spec import config as configs
    from buildstep.spec.document import default_manifest

    manifest_arg, flags["proto"] = find_inputs(words, manifest_arg)
    manifest_arg = manifest_arg or default_manifest(Path.cwd())
    text = read_stdin() if manifest_arg == "-" else ""
    spec, proto, before = _spec(manifest_arg, flags, defines, text, profiles)
    pool = build.named_pool(spec) if spec is not None else str(flags["pool"] or "") or None
    config = configs.Config()
    try:
        user_namespace.enter(pool)
        config = configs.load(os.environ, Path.cwd(), pool=pool)
    except SpecError as error:
        before += _findings(error, "configuration")
    seen = doctor.examine(
        spec if manifest_arg else None,
        proto=proto,
        config=config,
        environ=session.environment(config, build.named_store(spec) if spec is not None else None),
        before=before,
    )
    _show(seen, as_json=as_json, quiet=quiet)
    return seen.exit_code


_SHARED = (
    "words", "manifest_arg", "dir", "image", "packages", "upgrade_first", "formats", "compression",
    "installer", "order", "exclude", "output_dir", "network", "pool", "store", "ref", "defines",
    "profiles",
)  # fmt: skip
command.params[:0] = [param for param in build.command.params if param.name in _SHARED]
"""What a build is told that decides what it needs; the same words mean the same."""


def _spec(
    manifest_arg: str | None,
    flags: Mapping[str, object],
    defines: Mapping[str, str],
    text: str = "",
    profiles: Sequence[str] = (),
) -> tuple[BuildSpec | None, Path | None, list[Finding]]:
    """Return the spec, its proto directory if that is known and there, and what is wrong with them."""
    found: list[Finding] = []
    try:
        document = build.read_here(manifest_arg or _AGENT, defines, text, profiles=profiles)
        try:
            spec = build.load_spec(document, flags)
        except SpecError as error:
            # A proto directory that is not named, or not made yet, is no reason to refuse the question.
            missing = [fault for fault in error.faults if _about_proto(fault)]
            if not missing:
                raise
            if manifest_arg:
                found.append(_no_proto(missing))
            return build.load_spec(document, {**flags, "proto": os.getcwd(), "dir": None}), None, found
    except BuildstepError as error:
        return None, None, found + _findings(error, manifest_arg or "command line")
    return spec, spec.proto, found


def _about_proto(fault: Fault) -> bool:
    places = ("PROTO", "--dir", "$.build.proto", "BUILDSTEP_PROTO")
    return fault.where in places and fault.message.endswith(("is required", "does not exist"))


def _no_proto(missing: Sequence[Fault]) -> Finding:
    """Return the finding for a proto directory that is not named, or that does not exist."""
    from buildstep.build.doctor import Finding

    where = "proto directory"
    for fault in missing:
        if fault.message != "is required":
            fix = "make it before the build"
            return Finding(level="warning", area="manifest", where=where, what=fault.message, fix=fix)
    what = "not named: the forecast does without it"
    return Finding(level="ok", area="manifest", where=where, what=what)


def _findings(error: BuildstepError, where: str) -> list[Finding]:
    """Return the findings for an error: one for each fault of an input."""
    from buildstep.build.doctor import Finding

    faults = [Fault(where=where, message=error.message, hint=error.hint)]
    if isinstance(error, SpecError):
        faults = [replace(fault, where=f"{error.source}: {fault.where}") for fault in error.faults]
    return [
        Finding(level="error", area="manifest", where=it.where, what=it.message, fix=it.hint, code=error.code)
        for it in faults
    ]


def _show(seen: Examination, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(seen.to_json())
        return
    for found in seen.findings:
        if quiet and found.level == "ok":
            continue
        echo(f"{found.level:8}", fg=_COLOURS[found.level], nl=False)
        echo(f"{found.area:11}{found.where}: {found.what}")
        if found.fix:
            echo(f"{'':19}{found.fix}")
    errors = sum(found.level == "error" for found in seen.findings)
    warnings = sum(found.level == "warning" for found in seen.findings)
    what = f"{seen.spec.name} {seen.spec.version}" if seen.spec else "images"
    can = (
        f"this machine cannot build {what}: {plural(errors, 'error')}"
        if errors
        else f"this machine can build {what}"
    )
    if warnings:
        can += f", {plural(warnings, 'warning')}"
    echo(can)
