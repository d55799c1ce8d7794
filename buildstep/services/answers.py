"""Answers to what templates ask: from options, and from files of answers for one service or many.

    --data 'port:6379 name:x'        words with blanks between them; quotes keep blanks: greeting:'hi all'
    --data 'port=6379 # name=x y'    with ` # ` between them
    --answers FILE                   .toml, .json, or HRD; tables become dotted keys
    -D KEY=VALUE

A key is that of the parameter, for the service that is created, or has a service before it:
`domain.name.instance.key`, as the seeds of JumpScale 7 have, or `name.instance.key`; this way it reaches the
services that are created along with it too.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from buildstep.errors import Fault, SpecError
from buildstep.services.hrd import Ask, parse
from buildstep.services.interface import Key

_FIRST = re.compile(r"\s*[^\s:=]+\s*(?P<sign>[:=])")
MISSING: Final = object()
"""What there is for a key that has no answer."""

Prompt = Callable[[str, str, Ask], str]
"""Asks a person: is given the service's key, the parameter's, and what is asked; returns the answer."""


class Source(NamedTuple):
    """Answers of one place. name: the option or file; strict: each of them must be for something that is
    asked, as a mistyped key would be lost."""

    name: str
    values: Mapping[str, Any]
    strict: bool = True


@dataclass(frozen=True)
class Answers:
    """Answers of several places, of which the first wins."""

    sources: Sequence[Source] = ()

    def find(self, key: Key, name: str, *, plain: bool) -> Any:
        """Return the answer for a parameter of a service, MISSING without one. plain: whether keys without a
        service before them are for this one."""
        names = [f"{prefix}{name}" for prefix in _prefixes(key)] + ([name] if plain else [])
        for source in self.sources:
            for full in names:
                if (value := _at(source.values, full)) is not MISSING:
                    return value
        return MISSING

    def given(self, key: Key, *, plain: bool) -> Iterator[str]:
        """Yield every parameter that something is given for: those that this service is named before, and
        with `plain` all of strict sources."""
        for source in self.sources:
            for full in source.values:
                prefix = named(key, full)
                if prefix or (plain and source.strict):
                    yield full.removeprefix(prefix)


def named(key: Key, full: str) -> str:
    """Return what names a service before a parameter, with the dot behind it; "" if nothing does."""
    return next((text for text in _prefixes(key) if full.startswith(text)), "")


def _prefixes(key: Key) -> list[str]:
    short = f"{key.name}.{key.instance}."
    return [f"{key.domain}.{short}", short] if key.domain else [short]


def _at(values: Mapping[str, Any], name: str) -> Any:
    """Return the value of a key, or the table of the keys below it."""
    if name in values:
        return values[name]
    below = {
        full.removeprefix(f"{name}."): value for full, value in values.items() if full.startswith(f"{name}.")
    }
    return below or MISSING


def parse_data(text: str) -> dict[str, str]:
    """Return the answers in a text of --data, by key. Raises SpecError with all that is no answer."""
    faults = []
    found: dict[str, str] = {}
    first = _FIRST.match(text)
    sign = first["sign"] if first else ":"
    try:
        parts = re.split(r"\s#\s", text) if sign == "=" else _words(text)
    except ValueError as error:
        raise SpecError("--data", [Fault(where=text, message=f"{error}".lower())]) from None
    for part in parts:
        name, separator, value = part.partition(sign)
        if not separator or not name.strip():
            hint = "KEY:VALUE, with blanks between them, or KEY=VALUE, with ` # ` between them"
            faults.append(Fault(where="--data", message=f"{part.strip()!r} is no answer", hint=hint))
        elif found.setdefault(name.strip(), value.strip()) != value.strip():
            faults.append(Fault(where="--data", message=f"{name.strip()} is given twice"))
    if faults:
        raise SpecError("--data", faults)
    return found


def _words(text: str) -> list[str]:
    """Split at blanks as a shell does, but a backslash is a character as any other. Raises ValueError."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = lexer.escape = ""
    return list(lexer)


def read_answers(path: Path) -> Source:
    """Return the answers of a file. Raises SpecError for one that cannot be read, or is not what its name
    says."""
    try:
        text = path.read_text(encoding="utf-8")
        match path.suffix:
            case ".toml":
                import tomllib

                values: Any = tomllib.loads(text)
            case ".json":
                values = json.loads(text)
            case _:
                document = parse(text, where=os.fspath(path))
                values = {key: document.get(key) for key in document}
    except OSError as error:
        raise _unreadable(path, os.strerror(error.errno or 0)) from error
    except RecursionError:
        raise _unreadable(path, "is nested too deeply") from None
    except ValueError as error:
        raise _unreadable(path, f"is not {path.suffix[1:].upper() or 'UTF-8'}: {error}") from error
    if not isinstance(values, dict):
        raise _unreadable(path, "is no table of answers")
    return Source(os.fspath(path), dict(_flat(values)), strict=False)


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _unreadable(path: Path, reason: str) -> SpecError:
    return SpecError("answers", [Fault(where=os.fspath(path), message=reason)])
