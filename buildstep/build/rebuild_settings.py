"""The settings of a build that is to be done again: the record's, with what is hidden there given anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from buildstep.errors import InputMissingError, UsageError
from buildstep.events import HIDDEN
from buildstep.report.record import BuildRecord
from buildstep.spec import restore
from buildstep.spec.fields import BuildSpec

_PATTERNS = ("exclude", "replace", "owner", "modes", "allow", "outputs")
"""Settings that have patterns, in which three stars are a word of rsync's."""


def spec_of(record: BuildRecord, hidden: Mapping[str, str]) -> BuildSpec:
    """Return what the record says that was built. hidden: what `***` stands for there, by setting.

    Raises UsageError where the record does not say all of it, InputMissingError where that was hidden.
    """
    source, value = str(record.path), record.input("spec")
    if not record.ok or not record.tree_digest:
        raise UsageError(f"{source} is the record of a build that made no image")
    if not value:
        raise UsageError(f"{source} has no settings (inputs.spec): an event log or another tool's record")
    found = list(dict.fromkeys(_hidden(value, "")))
    if unknown := sorted(set(hidden) - set(found)):
        raise UsageError(
            f"-D {', '.join(unknown)}: {source} hides no such setting",
            hint=f"it hides {', '.join(found)}" if found else "it hides none: leave the option out",
        )
    if missing := [name for name in found if name not in hidden]:
        raise InputMissingError(
            f"{source} does not have what was hidden in {', '.join(missing)}: that was a secret, and is in no"
            " record",
            detail="\n".join(f"  {name}: looked for in inputs.spec, which has {HIDDEN}" for name in missing),
            hint=f"give what {HIDDEN} stands for: " + " ".join(f"-D '{name}=VALUE'" for name in missing),
        )
    spec = restore.of_json(_filled(value, "", hidden), source)
    if "files" in spec.formats:
        spec = dataclasses.replace(spec, formats=tuple(name for name in spec.formats if name != "files"))
    return dataclasses.replace(spec, formats=spec.formats or ("tar",))


def _rows(value: Any, where: str) -> Iterator[tuple[Any, str, Any]]:
    """Yield the parts of a value: key, name of the setting, and what it is."""
    rows: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, Mapping):
        rows = iter(value.items())
    elif isinstance(value, list):
        rows = iter(enumerate(value))
    for key, part in rows:
        yield key, f"{where}.{key}".lstrip("."), part


def _hidden(value: Any, where: str) -> Iterator[str]:
    """Yield the names of settings of which a text was hidden from the record."""
    if where.rpartition(".")[2] in _PATTERNS:
        return
    if isinstance(value, str) and HIDDEN in value:
        yield where
    for key, name, part in _rows(value, where):
        if HIDDEN in str(key):
            yield name
        yield from _hidden(part, name)


def _filled(value: Any, where: str, hidden: Mapping[str, str]) -> Any:
    """Return a value with what was hidden in it."""
    if isinstance(value, str):
        return value.replace(HIDDEN, hidden[where]) if where in hidden else value
    if isinstance(value, Mapping):
        return {
            key.replace(HIDDEN, hidden[name]) if name in hidden else key: _filled(part, name, hidden)
            for key, name, part in _rows(value, where)
        }
    if isinstance(value, list):
        return [_filled(part, name, hidden) for _, name, part in _rows(value, where)]
    return value
