"""`buildstep rebuild`: build again what a record is of, without a network, and compare."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.options import JSON, POOL, pairs, show

if TYPE_CHECKING:
    from buildstep.build.rebuild import Again


@click.command(
    "rebuild",
    epilog="Exit codes: 0 the same, 37 different, 38 an input is not here, 2 usage, 4 a command failed, "
    "5 a tool is missing, 12 install, 13 sandbox, 14 emit, 128+N signal N.",
)
@click.argument("record", type=click.Path(path_type=Path), shell_complete=values.FILES)
@click.option(
    "-o",
    "--output-dir",
    metavar="DIR",
    required=True,
    shell_complete=values.FOLDERS,
    help="Where the files go that are made again.",
)
@click.option(
    "-d",
    "--proto",
    "--dir",
    "proto",
    metavar="DIR",
    shell_complete=values.FOLDERS,
    help="The proto directory, or files:dir:STORE#REF (default: the one that was used, or its commit).",
)
@click.option(
    "-D",
    "hidden",
    multiple=True,
    callback=pairs,
    metavar="KEY=VALUE",
    help="What *** stands for in a setting (KEY) of the record; repeat.",
)
@click.option(
    "--shared-cache",
    metavar="URL",
    shell_complete=values.STORES,
    help="A shared cache in a directory, dir:PATH (default: that of the settings here, or the record's).",
)
@POOL
@JSON
@click.option("-v", "--verbose", count=True, help="Show the tools' output.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors and the result.")
def command(
    record: Path, output_dir: str, pool: str | None, as_json: bool, verbose: int, quiet: bool, **given: Any
) -> int:
    """Build the image of a build RECORD again, from what is on this machine alone, and compare the digests.

    It runs in a network namespace that has no interface but a loopback. The base image is the pool's,
    packages are those of its package cache, by their SHA-256; what is not there is taken from a shared cache
    in a directory. The proto directory is the one that was used, else its commit, or what --proto names;
    settings and SOURCE_DATE_EPOCH are the record's. An input that is
    not here, or is not what it was, is named with where it was looked for.
    """
    from buildstep.cli import session, user_namespace
    from buildstep.report import parse

    read = parse.load(record)
    into = Path(output_dir).absolute()
    proto: Path | str | None = given["proto"]
    if proto is not None and not str(proto).startswith("files:"):
        proto = Path(proto).absolute()
    user_namespace.enter(pool, packages=True)

    def job() -> int:
        from buildstep.build.make_lock import Room
        from buildstep.build.rebuild import Asked, rebuild
        from buildstep.cli.shared import of_record
        from buildstep.errors import ExitCode

        opened = session.open_session(pool, verbose=verbose, quiet=quiet, silent=quiet)
        epoch = read.input("spec").get("source_date_epoch")
        environ = {name: text for name, text in opened.environ.items() if name != "SOURCE_DATE_EPOCH"}
        if epoch is not None:
            environ["SOURCE_DATE_EPOCH"] = str(epoch)
        room = Room(store=opened.store, bus=opened.bus, environ=environ)
        shared = of_record(read.input("spec"), given["shared_cache"], opened.config)
        asked = Asked(record=read, into=into, proto=proto, hidden=given["hidden"], shared=shared)
        again = rebuild(asked, room)
        told = "the same" if again.equal else "another image"
        show(again.to_json(), _lines(again), as_json=as_json, done=f"{os.fspath(into)} has {told}")
        return int(ExitCode.OK if again.equal else ExitCode.DIFFERENT)

    return session.enclosed(job)


def _lines(again: Again) -> list[str]:
    from buildstep.build.proving import tell
    from buildstep.system.text import plural

    lines = [f"{what}: {where}" for what, where in again.inputs]
    lines += [f"note: {text}" for text in again.notes]
    then, now = ({name: again.digests[name][at] for name in again.expected} for at in (0, 1))
    lines += tell.digests(then, now, ("recorded", "built again"))
    if again.equal:
        return [*lines, "the same"]
    rows = again.differences
    if not rows:
        return [*lines, "different"]
    count = plural(len(rows), "difference")
    return [*lines, "", *tell.differences(rows), "", f"{count}: {tell.causes(rows)}"]
