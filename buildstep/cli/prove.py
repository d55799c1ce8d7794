"""`buildstep prove`: build twice in other surroundings, and say what differs and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import build, values
from buildstep.cli.inputs import find_inputs
from buildstep.cli.options import JSON, show

if TYPE_CHECKING:
    from buildstep.build.prove import Proof


def _variations(_context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    """Offer what can be varied."""
    from buildstep.build.proving.variations import VARIATIONS

    yield from VARIATIONS


@click.command(
    "prove",
    epilog="Exit codes: 0 the same, 37 different, 2 usage, 4 a command failed, 5 a tool is missing, "
    "11 image, 12 install, 13 sandbox, 14 emit, 128+N signal N.",
)
@click.option(
    "--vary",
    multiple=True,
    metavar="LIST",
    shell_complete=values.callback(_variations),
    help="What is another in the second build: names, or with a dash in front all but these: path, umask, "
    "host, kernel, clock, timezone, locale, order, cpus, environment; none (default: all that can be).",
)
@click.option(
    "--isolate/--no-isolate",
    default=True,
    help="Build again, with one thing varied at a time, where that tells the cause (default: yes).",
)
@click.option(
    "-o",
    "--output-dir",
    "report",
    metavar="DIR",
    shell_complete=values.FOLDERS,
    help="Write the report there as well: NAME-VERSION.proof.json and .proof.txt.",
)
@JSON
@click.option("-v", "--verbose", count=True, help="Show the tools' output.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors and the result.")
def command(
    words: tuple[str, ...],
    manifest_arg: str | None,
    defines: dict[str, str],
    vary: tuple[str, ...],
    isolate: bool,
    report: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Build an image twice, the second time in other surroundings, and compare both, byte for byte.

    The base image and the packages are fetched once, nothing that a build left is used, and nothing stays
    but the report. What differs is told path by path: the step that made it so, the class of its cause, and
    what removes it. Set SOURCE_DATE_EPOCH as the build has it: without it files have the time of their build.
    """
    from buildstep.build.proving import variations
    from buildstep.cli import session, user_namespace

    names = variations.chosen(vary)
    view = {"verbose": flags.pop("verbose"), "silent": flags["quiet"], "quiet": flags.pop("quiet")}
    manifest_arg, flags["proto"] = find_inputs(words, manifest_arg)
    flags["base_max_age"] = 0 if flags.pop("pull") else flags["base_max_age"]
    document = build.read_here(manifest_arg, defines, profiles=flags.pop("profiles"))
    spec = build.load_spec(document, flags)
    folder = Path(report).absolute() if report else None
    user_namespace.enter(build.named_pool(spec), packages=True)

    def job() -> int:
        from buildstep.build.make_lock import Room
        from buildstep.build.prove import prove
        from buildstep.build.proving import tell
        from buildstep.errors import ExitCode

        opened = session.open_session(build.named_pool(spec), store=build.named_store(spec), **view)
        room = Room(store=opened.store, bus=opened.bus, environ=opened.environ)
        proof = prove(spec, room, names, isolate=isolate)
        lines = list(_lines(proof))
        if folder is not None:
            _write(folder / spec.basename, proof, lines)
        told = "the same" if proof.equal else tell.causes(proof.differences)
        show(proof.to_json(), lines, as_json=as_json, done=f"the image was built twice: {told}")
        return int(ExitCode.OK if proof.equal else ExitCode.DIFFERENT)

    return session.enclosed(job)


_NOT_SHARED = (
    "output_dir", "store", "ref", "cache", "paranoid", "shared_cache", "cache_required", "cache_trust",
    "dry_run", "keep_on_failure", "shell_on_failure", "as_json", "log_json", "verbose", "quiet",
    "as_buildimage", "version", "sbom", "provenance", "sign_key", "base_policy", "max_growth",
)  # fmt: skip
command.params[:0] = [param for param in build.command.params if param.name not in _NOT_SHARED]
"""What a build is told that decides what it makes; the same words mean the same."""


def _lines(proof: Proof) -> list[str]:
    from buildstep.build.proving import tell
    from buildstep.system.text import plural

    lines = [f"varied: {', '.join(proof.varied) or 'nothing'}"]
    lines += [f"not varied: {name}: {why}" for name, why in proof.not_varied.items()]
    lines += [f"note: {text}" for text in proof.notes]
    lines += tell.digests(*proof.digests, ("first", "second"))
    if proof.equal:
        return [*lines, f"the same, in {plural(proof.builds, 'build')}"]
    count = plural(len(proof.differences), "difference")
    return [
        *lines,
        "",
        *tell.differences(proof.differences),
        "",
        f"{count}: {tell.causes(proof.differences)}",
    ]


def _write(stem: Path, proof: Proof, lines: list[str]) -> None:
    import json

    from buildstep.cli.options import writing
    from buildstep.system.files import atomic_write

    with writing(stem):
        stem.parent.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("json", json.dumps(proof.to_json(), indent=2)), ("txt", "\n".join(lines))
        ):  # fmt: skip
            with atomic_write(stem.with_name(f"{stem.name}.proof.{name}"), mode=0o644) as stream:
                stream.write(f"{text}\n".encode())
