"""Read an m.json: a file, text or standard input, with the files that it includes; templates are rendered."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from buildstep.errors import Fault, SpecError
from buildstep.spec import schema, template
from buildstep.spec.compose import Composed, Part, compose, is_composed
from buildstep.system.digest import sha256_bytes
from buildstep.system.text import HALF

NAMES: Final = ("m.json", "m.json.j2")
"""The m.json of a directory, where none is named."""

PROFILE: Final = "BUILDSTEP_PROFILE"
"""The variable with the names of the profiles that are chosen, separated by commas."""

LAST_SECOND: Final = 253402300799
"""The last second of the year 9999, in seconds since 1970; datetime knows no later one."""


class Document(NamedTuple):
    """JSON that was read.

    source: where it came from, for messages; faults: of values given with it, told with those of the JSON.
    files: each file that was read, as an absolute path, to the SHA-256 of its bytes, in hex. composed: how it
    was put together, None for one file alone. folder: what the files that it names are relative to; None for
    the current directory. profiles: those that were chosen.
    """

    source: str
    value: object
    faults: tuple[Fault, ...] = ()
    files: Mapping[str, str] = MappingProxyType({})
    composed: Composed | None = None
    folder: Path | None = None
    profiles: tuple[str, ...] = ()

    def placed(self, faults: Iterable[Fault]) -> list[Fault]:
        """Return faults of the value with the file that each is in, where that is not the document itself."""
        return [self._placed(fault) for fault in faults]

    def _placed(self, fault: Fault) -> Fault:
        origin = "" if self.composed is None else self.composed.origin(fault.where)
        if origin in ("", self.source):
            return fault
        return replace(fault, message=f"{fault.message}, in {origin}")


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
    line. environ: for templates, and names the profiles that are chosen (PROFILE). git: called with cwd only
    when a template needs it. now: the time of its stamp where SOURCE_DATE_EPOCH is not set.
    Errors: SpecError when there is none, and when it, or a file that it includes, cannot be read, rendered or
    parsed.
    """
    argument = argument or default_manifest(cwd)
    if argument is None:
        hint = "give a file or JSON text, or build where there is an m.json"
        raise SpecError("command line", [Fault(where="--manifest", message="is required", hint=hint)])
    reader = Reader(lambda: git(cwd), environ, defines or {}, now)
    if argument.lstrip().startswith("{"):
        return reader.document("inline manifest", argument, cwd)
    if argument == "-":
        return reader.document("standard input", stdin, cwd)
    path = cwd / argument
    return reader.document(argument, reader.text(path), path.parent)


@dataclass(slots=True)
class Reader:
    """Reads one m.json and what it includes. git, environ, defines, now: as `read_document` is given them.

    files: as `Document` has them; templates: the texts of those that are one.
    """

    git: Callable[[], template.GitFacts]
    environ: Mapping[str, str]
    defines: Mapping[str, str]
    now: datetime | None
    files: dict[str, str] = field(default_factory=dict)
    templates: list[str] = field(default_factory=list)

    def document(self, source: str, text: str, folder: Path) -> Document:
        """Return the document in a text. folder: what it includes is relative to that. Raises SpecError."""
        composed = None
        profiles: list[str] = []
        try:
            value = self.value(source, text)
            profiles = [name for word in self.environ.get(PROFILE, "").split(",") if (name := word.strip())]
            if is_composed(value, profiles):
                composed = compose(Part(source, folder, value), self.included, profiles)
                value = composed.value
        except SpecError as error:
            raise SpecError(source, [*self.unused(source), *error.faults]) from None
        faults = tuple(self.unused(source))
        return Document(source, value, faults, self.files, composed, folder, tuple(profiles))

    def text(self, path: Path) -> str:
        """Return what is in a file. Raises SpecError."""
        data = schema.read_bytes(os.fspath(path))
        self.files[os.path.abspath(path)] = sha256_bytes(data)
        return schema.text_of(data, os.fspath(path))

    def included(self, name: str, folder: Path) -> Part:
        """Return a file that another one includes."""
        path = folder / name
        return Part(name, path.parent, self.value(name, self.text(path)))

    def value(self, source: str, text: str) -> object:
        """Return the JSON in a text; a template is rendered first."""
        if source.endswith(".j2"):
            self.templates.append(text)
            text = template.render(
                text,
                source=source,
                git=self.git,
                moment=build_time(self.environ, self.now),
                environ=self.environ,
                defines=self.defines,
            )
        value = schema.parse(text, source)
        if halves := [*_halves(value, "$")]:
            raise SpecError(source, halves)
        return value

    def unused(self, source: str) -> list[Fault]:
        """Return a fault for each value that nothing would come of."""
        if not self.defines:
            return []
        if self.templates:
            first, *rest = [template.unused(text, self.defines) for text in self.templates]
            known = [{fault.where for fault in faults} for faults in rest]
            return [fault for fault in first if all(fault.where in names for names in known)]
        hint = "a template is a file whose name ends in .j2, such as m.json.j2"
        message = f"{', '.join(self.defines)}: values are for templates, and {source} is none"
        return [Fault(where="-D", message=message, hint=hint)]


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
