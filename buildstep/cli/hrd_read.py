"""`buildstep hrd get`, `check`, `convert` and `grammar`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.options import JSON, echo, show, tell

if TYPE_CHECKING:
    from buildstep.services.hrd import Document

_FORMS = click.Choice(["hrd", "json", "toml"])


def keys(context: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """Return what a TAB offers for a key of the file that is named before it."""
    from buildstep.errors import SpecError
    from buildstep.services.hrd import read

    try:
        return [key for key in read(Path(context.params["file"])) if key.startswith(begun)]
    except (KeyError, TypeError, SpecError):
        return []


FILES = click.argument(
    "files",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    shell_complete=values.FILES,
)


@click.command("get")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path), shell_complete=values.FILES)
@click.argument("key", metavar="[KEY]", required=False, shell_complete=keys)
@click.option("--resolve", "resolved", is_flag=True, help="Put references to other keys of the file in.")
@JSON
def get(file: Path, key: str | None, resolved: bool, as_json: bool) -> None:
    """Print the value of a key, or all keys with their values.

    A text is printed as it is, a list with an item on each line, a dict with name:value on each. With --json
    a question and a binary value are objects of one key, as `convert` writes them.
    """
    import json

    from buildstep.services.hrd import Document, read, resolve
    from buildstep.services.hrd.convert import to_json

    document = read(file)
    if key is not None:
        document.get(key)
    if resolved:
        document = Document.of(resolve([document], keys=None if key is None else [key]), where=str(file))
    found = json.loads(to_json(_only(document, key)).text) if as_json else document.values
    if key is not None:
        show(found[key], _lines(document.get(key)), as_json=as_json)
        return
    show(
        found,
        (f"{name} = {' | '.join(_lines(value))}" for name, value in document.values.items()),
        as_json=as_json,
    )


def _only(document: Document, key: str | None) -> Document:
    from buildstep.services.hrd import Document

    return document if key is None else Document.of({key: document.get(key)}, where=document.where)


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, bytes):
        yield f"{len(value)} bytes, binary"
    elif isinstance(value, dict):
        yield from (f"{name}:{item}" for name, item in value.items())
    elif isinstance(value, list):
        yield from map(str, value)
    else:
        yield str(value)


@click.command("check")
@FILES
@click.option(
    "--schema", metavar="FILE", type=click.Path(path_type=Path), help="The files must be as this schema says."
)
@click.option("--references", is_flag=True, help="Each $(name) must be a key of its own file.")
@JSON
def check(files: tuple[Path, ...], schema: Path | None, references: bool, as_json: bool) -> int:
    """Find what is wrong with files: each fault with its line, its column and what to do.

    Exits with 2 if anything is.
    """
    from buildstep.errors import ExitCode, Fault, SpecError
    from buildstep.services.hrd import read, resolve
    from buildstep.services.hrd.schema import read_schema
    from buildstep.system.text import plural

    rules = read_schema(schema) if schema else None
    faults: list[Fault] = []
    keys = 0
    for file in files:
        try:
            document = read(file)
            keys += len(document)
            found = resolve([document]) if references else document.values
            if rules:
                rules.check(document, found)
        except SpecError as error:
            faults += error.faults
    value = {
        "files": list(map(os.fspath, files)),
        "keys": keys,
        "faults": [{"where": it.where, "message": it.message, "hint": it.hint} for it in faults],
    }
    count = plural(len(files), "file")
    verdict = f"{count}: {plural(len(faults), 'fault')}" if faults else f"{count}: nothing is wrong"
    show(value, [*map(str, faults), verdict], as_json=as_json)
    return ExitCode.USAGE if faults else ExitCode.OK


@click.command("convert")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path), shell_complete=values.FILES)
@click.option("--to", "form", type=_FORMS, required=True, help="The form to print.")
@click.option(
    "--from", "given", type=_FORMS, help="The form of the file (default: by its name's end, else hrd)."
)
def convert(file: Path, form: str, given: str | None) -> None:
    """Print a file in another form. What that cannot hold, such as comments, is told on standard error."""
    from buildstep.services.hrd import Document, convert, read

    given = given or (file.suffix[1:] if file.suffix in (".json", ".toml") else "hrd")
    if given == "hrd":
        document = read(file)
    else:
        text = _text(file)
        reader = convert.from_json if given == "json" else convert.from_toml
        document = reader(text, where=str(file))
    if form == "hrd":
        made = convert.Converted(str(document if given == "hrd" else Document.of(document.values)), [])
    else:
        made = convert.to_json(document) if form == "json" else convert.to_toml(document)
    for note in made.notes:
        tell(f"note: {note}")
    echo(made.text, nl=False)


def _text(file: Path) -> str:
    from buildstep.errors import UsageError

    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: byte {error.start} is no UTF-8", hint="save it as UTF-8") from None


@click.command("grammar")
def grammar() -> None:
    """Print the TextMate grammar of HRD: VS Code, Sublime Text and JetBrains colour files by it."""
    from buildstep.services.hrd.tokens import GRAMMAR

    echo(GRAMMAR.read_text("utf-8"), nl=False)
