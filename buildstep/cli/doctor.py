"""`buildstep doctor`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import build
from buildstep.errors import BuildstepError, SpecError

if TYPE_CHECKING:
    from buildstep.build.doctor import Examination, Finding
    from buildstep.spec.load import BuildSpec

_AGENT = '{"name": "agent", "version": "0", "build": {"image": "scratch"}}'
"""The m.json of an agent that is looked at without one."""

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command(
    "doctor",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 it can, perhaps with warnings; else that of the first error, which is the one that "
    "the build would end with: 2 usage, 5 a tool or privilege is missing, 10 dataset, 11 image, 12 install, "
    "13 sandbox, 14 emit.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Only what is wrong.")
def command(
    *,
    proto_dir: str | None,
    manifest_arg: str | None,
    dir_: str | None,
    defines: dict[str, str],
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Tell whether this agent can build an m.json, and if not, why and what to do; changes nothing.

    Looked at: privileges, tools and their versions, what the kernel allows (by trying), the pool and its
    room, what dead builds left, the base image, its package manager, the output directory, the network
    to the sources, and the clock. Without -m: what any build needs.
    """
    from buildstep.build import doctor
    from buildstep.spec import config as configs

    flags = build._flags(options) | {"proto": proto_dir, "dir": dir_}
    spec, proto, before = _spec(manifest_arg, flags, defines)
    config = configs.Config()
    try:
        config = configs.load(os.environ, Path.cwd(), pool=str(flags["pool"] or "") or None)
    except SpecError as error:
        before += _faults(error)
    if spec is not None and (spec.packages or spec.upgrade_first) and manifest_arg != "-":
        _become_root_of_a_namespace()
    seen = doctor.examine(
        spec if manifest_arg else None,
        proto=proto,
        config=config,
        environ=config.environ(os.environ),
        before=before,
    )
    _show(seen, as_json=as_json, quiet=quiet)
    return seen.exit_code


_SHARED = (
    "proto_dir", "manifest_arg", "dir_", "image", "packages", "upgrade_first", "formats", "compression",
    "installer", "order", "exclude", "output_dir", "network", "pool", "defines",
)  # fmt: skip
command.params[:0] = [param for param in build.command.params if param.name in _SHARED]
"""What a build is told that decides what it needs; the same words mean the same."""


def _spec(
    manifest_arg: str | None, flags: dict[str, object], defines: dict[str, str]
) -> tuple[BuildSpec | None, Path | None, list[Finding]]:
    """The spec, its proto directory if that is known and there, and what is wrong with them."""
    from buildstep.build.doctor import Finding
    from buildstep.spec import load as specs
    from buildstep.spec import template

    text = sys.stdin.read() if manifest_arg == "-" else ""

    def load(**more: object) -> BuildSpec:
        return specs.load(
            manifest_arg=manifest_arg or _AGENT,
            flags=flags | more,
            environ=os.environ,
            cwd=Path.cwd(),
            choices=build.choices(),
            defines=defines,
            git=lambda: template.git_facts(Path.cwd()),
            stdin=text,
        )

    where = manifest_arg or "command line"
    found: list[Finding] = []
    try:
        try:
            spec = load()
        except SpecError as error:
            # A proto directory that nobody named, or that is yet to be made, keeps nobody from asking.
            others = [fault for fault in error.faults if not _about_proto(fault.where, fault.message)]
            missing = [fault for fault in error.faults if fault not in others]
            if not missing:
                raise
            if manifest_arg:
                named = next((it for it in missing if it.message != "is required"), None)
                found.append(
                    Finding(
                        level="warning" if named else "ok",
                        area="manifest",
                        where="proto directory",
                        what=named.message if named else "not named: the forecast does without it",
                        fix="make it before the build" if named else "",
                    )
                )
            return load(proto=os.fspath(Path.cwd()), dir=None), None, found
    except SpecError as error:
        return None, None, [*found, *_faults(error)]
    except BuildstepError as error:
        found.append(
            Finding(
                level="error",
                area="manifest",
                where=where,
                what=error.message,
                fix=error.hint,
                code=error.code,
            )
        )
        return None, None, found
    return spec, spec.proto, found


def _about_proto(where: str, message: str) -> bool:
    places = ("PROTO", "--dir", "$.build.proto", "BUILDSTEP_PROTO")
    return where in places and (message == "is required" or message.endswith("does not exist"))


def _faults(error: SpecError) -> list[Finding]:
    from buildstep.build.doctor import Finding

    return [
        Finding(
            level="error",
            area="manifest",
            where=f"{error.source}: {fault.where}",
            what=fault.message,
            fix=fault.hint,
            code=error.code,
        )
        for fault in error.faults
    ]


def _become_root_of_a_namespace() -> None:
    """See things as the build will: an ordinary user installs packages in a user namespace."""
    from buildstep.build.doctor import attempts
    from buildstep.cli import session

    if os.geteuid() != 0 and not attempts.user_namespace_lacks():
        session.enter_user_namespace(sys.argv[1:])


def _show(seen: Examination, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        click.echo(json.dumps(seen.to_json(), indent=2))
        return
    for found in seen.findings:
        if quiet and found.level == "ok":
            continue
        click.secho(f"{found.level:8}", fg=_COLOURS[found.level], nl=False)
        click.echo(f"{found.area:11}{found.where}: {found.what}")
        if found.fix:
            click.echo(f"{'':19}{found.fix}")
    errors = sum(found.level == "error" for found in seen.findings)
    warnings = sum(found.level == "warning" for found in seen.findings)
    what = f"{seen.spec.name} {seen.spec.version}" if seen.spec else "images"
    can = (
        f"this agent cannot build {what}: {_count(errors, 'error')}"
        if errors
        else f"this agent can build {what}"
    )
    if warnings:
        can += f", {_count(warnings, 'warning')}"
    click.echo(can)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
