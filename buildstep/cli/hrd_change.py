"""`buildstep hrd fmt` and `set`: change files, and nothing in them but what is asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from buildstep.cli import values
from buildstep.cli.hrd_read import FILES, keys
from buildstep.cli.options import echo, show

if TYPE_CHECKING:
    from buildstep.services.hrd import Document, Value

_DRY_RUN = click.option("-n", "--dry-run", is_flag=True, help="Print the new file and change nothing.")


def _write(path: Path, text: str) -> None:
    """Replace a file's content, all or nothing; its mode stays, and a link stays one."""
    from buildstep.system.files import atomic_write

    target = Path(os.path.realpath(path))
    mode = target.stat().st_mode & 0o7777
    with atomic_write(target, mode=0o600) as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(text.encode())


@click.command("fmt")
@FILES
@click.option("--check", "checks", is_flag=True, help="Change nothing; exit with 20 if a file would change.")
@click.option("--diff", "differs", is_flag=True, help="Change nothing; print what would change.")
def fmt(files: tuple[Path, ...], checks: bool, differs: bool) -> int:
    """Give files our layout: `key = value`, blocks indented by four blanks and ended by a blank line.

    Comments, the order of keys and the spelling of values stay. If one of the files is no HRD, all are left
    as they are. Prints the names of the files that change.
    """
    from buildstep.errors import ExitCode, Fault, SpecError
    from buildstep.services.hrd import read
    from buildstep.services.hrd.layout import formatted
    from buildstep.system.text import plural

    changes: dict[Path, tuple[str, str]] = {}
    faults: list[Fault] = []
    for file in files:
        try:
            document = read(file)
        except SpecError as error:
            faults += error.faults
            continue
        old, new = str(document), formatted(document)
        if old != new:
            changes[file] = old, new
    if faults:
        raise SpecError("nothing is changed", faults)
    changing = not checks and not differs
    if changing:
        for file, (_, new) in changes.items():
            _write(file, new)
    if differs:
        for file, (old, new) in changes.items():
            _print_difference(file, old, new)
    else:
        done = f"formatted: {plural(len(changes), 'file')}" if changing else ""
        show(None, map(str, changes), as_json=False, done=done)
    return ExitCode.GATE if checks and changes else ExitCode.OK


def _print_difference(file: Path, old: str, new: str) -> None:
    import difflib

    rows = difflib.unified_diff(
        old.split("\n"), new.split("\n"), str(file), f"{file} (formatted)", lineterm=""
    )
    for row in rows:
        echo(row)


@click.command("set")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path), shell_complete=values.FILES)
@click.argument("key", metavar="KEY", shell_complete=keys)
@click.argument("value", metavar="VALUE")
@click.option(
    "--hrd", "is_hrd", is_flag=True, help="VALUE is spelled as in a file: `a, b`, `x:1, y:2`, `@ASK ...`."
)
@_DRY_RUN
def set_(file: Path, key: str, value: str, is_hrd: bool, dry_run: bool) -> None:
    """Give a key of a file a value, where it stands or at the end. All else in the file stays as it is.

    VALUE is a text, whatever is in it, or with --hrd what it means in a file.
    """
    from buildstep.services.hrd import read

    document = read(file)
    document.set(key, _spelled(value) if is_hrd else value)
    if dry_run:
        echo(str(document), nl=False)
    else:
        _write(file, str(document))


def _spelled(value: str) -> Value:
    from buildstep.services.hrd import parse

    document: Document = parse(f"VALUE = {value}", where="VALUE")
    return document.get("VALUE")
