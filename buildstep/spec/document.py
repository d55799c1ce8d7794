"""Read an m.json: a file, text or standard input; a template is rendered first."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from buildstep.errors import Fault, SpecError
from buildstep.spec import schema, template
from buildstep.system.text import HALF

NAMES: Final = ("m.json", "m.json.j2")
"""The m.json of a directory, where none is named."""

LAST_SECOND: Final = 253402300799
"""The last second of the year 9999, in seconds since 1970; datetime knows no later one."""


class Document(NamedTuple):
    """JSON that was read.

    source: where it came from, for messages; faults: of values given with it, told with those of the JSON;
    folder: what the files that it names are relative to; None for the current directory.
    """

    source: str
    value: object
    faults: tuple[Fault, ...] = ()
    folder: Path | None = None


def read_document(
    argument: str | None,
    *,
    cwd: Path,
    environ: Mapping[str, str],
    defines: Mapping[str, str] | None = None,
    stdin: str = "",
    git: Callable[[Path], template.GitFacts] = template.git_facts,
    now: datetime | None = None,
) -> Document:
    """Return the m.json that an argument names, not checked yet.

    argument: a path relative to cwd, JSON text that starts with a brace, or `-` for the text in stdin; None
    for the one of the directory. A path that ends in .j2 is a template; defines: its values from the command
    line. git: called with cwd only when the template needs it. now: the time of its stamp where
    SOURCE_DATE_EPOCH is not set.
    Errors: SpecError when there is none, and when it cannot be read, rendered or parsed.
    """
    argument = argument or default_manifest(cwd)
    if argument is None:
        hint = "give a file or JSON text, or build where there is an m.json"
        raise SpecError("command line", [Fault(where="--manifest", message="is required", hint=hint)])
    folder = cwd
    if argument.lstrip().startswith("{"):
        source, text = "inline manifest", argument
    elif argument == "-":
        source, text = "standard input", stdin
    else:
        source, text = argument, schema.read_file(os.fspath(cwd / argument))
        folder = (cwd / argument).parent
    faults = _unused(source, text, defines) if defines else ()
    try:
        if source.endswith(".j2"):
            text = template.render(
                text,
                source=source,
                git=lambda: git(cwd),
                moment=build_time(environ, now),
                environ=environ,
                defines=defines or {},
            )
        value = schema.parse(text, source)
        if halves := [*_halves(value, "$")]:
            raise SpecError(source, halves)
        return Document(source, value, faults, folder)
    except SpecError as error:
        raise SpecError(source, [*faults, *error.faults]) from None


def _halves(value: object, where: str) -> Iterator[Fault]:
    """Yield a fault for each text that is none: JSON can escape half of a character, which no UTF-8, argument
    or file can have."""
    if isinstance(value, str) and (found := HALF.search(value)):
        what = f"has \\u{ord(found[0]):04x} in it, which is half of a character"
        yield Fault(where=where, message=what)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _halves(item, schema.at(where, index))
    elif isinstance(value, dict):
        for name, item in value.items():
            if HALF.search(name):
                yield from _halves(name, where)
            else:
                yield from _halves(item, schema.at(where, name))


def _unused(source: str, text: str, defines: Mapping[str, str]) -> tuple[Fault, ...]:
    """Return a fault for the values that nothing would come of."""
    if source.endswith(".j2"):
        return template.unused(text, defines)
    hint = "a template is a file whose name ends in .j2, such as m.json.j2"
    message = f"{', '.join(defines)}: values are for templates, and {source} is none"
    return (Fault(where="-D", message=message, hint=hint),)


def default_manifest(cwd: Path) -> str | None:
    """Return the name of the m.json or the template in a directory, None where there is neither.

    Raises SpecError where there are both: which of them is meant cannot be known.
    """
    found = [name for name in NAMES if (cwd / name).is_file()]
    if len(found) > 1:
        message = f"{' and '.join(found)} are both here"
        raise SpecError("command line", [Fault(where="--manifest", message=message, hint="name one of them")])
    return found[0] if found else None


def build_time(environ: Mapping[str, str], now: datetime | None = None) -> datetime:
    """Return the time that SOURCE_DATE_EPOCH gives, else now. `load` reports a value that is not valid."""
    epoch = environ.get("SOURCE_DATE_EPOCH", "")
    if re.fullmatch("[0-9]{1,12}", epoch) and int(epoch) <= LAST_SECOND:
        return datetime.fromtimestamp(int(epoch), UTC)
    return now or datetime.now(UTC)
