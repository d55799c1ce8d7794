"""Read build records: from the JSON that a build wrote, or from its event log."""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from buildstep.errors import Fault, SpecError, UsageError
from buildstep.report.event_log import SUFFIX as EVENTS_SUFFIX
from buildstep.report.event_log import read_events
from buildstep.report.record import FORMAT, RECORD_SUFFIX, BuildRecord

_SCALARS: Mapping[object, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}
_hints = functools.cache(get_type_hints)


# -- finding and reading files ------------------------------------------------------------------------------


def find_events(record: Path) -> Path | None:
    """Return the event log that belongs to a record, or None."""
    if record.name.endswith(EVENTS_SUFFIX):
        return record
    stem = record.name.removesuffix(RECORD_SUFFIX).removesuffix(".json")
    path = record.with_name(stem + EVENTS_SUFFIX)
    return path if path.is_file() else None


def find_records(paths: Iterable[Path]) -> list[Path]:
    """Return these files, with those that a directory holds in place of the directory."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(path.glob(f"*{RECORD_SUFFIX}"))
        if not inside:
            raise UsageError(f"{path} holds no build record", hint=f"a record is named *{RECORD_SUFFIX}")
        found.extend(inside)
    return found


def load(path: Path) -> BuildRecord:
    """Read a build record, or work one out from an event log (of a build that failed, perhaps).

    Raises UsageError when the file cannot be read, is no record or has another format version, and
    SpecError with every wrong value of a record.
    """
    try:
        if path.name.endswith(EVENTS_SUFFIX):
            return from_events(path)
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _not_a_record(path, f": {error}") from error
    return from_json(value, path)


def from_json(value: Any, path: Path) -> BuildRecord:
    """Return the record that a JSON document holds. Raises UsageError and SpecError as `load` does."""
    if not isinstance(value, Mapping) or "format" not in value or "build_id" not in value:
        raise _not_a_record(path)
    version = value["format"]
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        hint = "a newer buildstep wrote it: upgrade this one" if newer else "build again to get a new record"
        raise UsageError(f"{path} has record format {version!r}; this buildstep reads {FORMAT}", hint=hint)
    return _checked(value, path)


def _not_a_record(path: Path, why: str = "") -> UsageError:
    return UsageError(
        f"{path} is not a build record{why}", hint=f"give the *{RECORD_SUFFIX} that a build wrote"
    )


# -- from JSON to dataclasses -------------------------------------------------------------------------------


def _checked(value: Mapping[str, Any], path: Path) -> BuildRecord:
    reader = _Reader()
    record: BuildRecord = reader.make(BuildRecord, value, "$", path=path, events=find_events(path))
    if reader.faults:
        raise SpecError(str(path), reader.faults)
    return record


class _Reader:
    """Make dataclasses from JSON objects by the types of their fields, and collect every wrong value.

    Keys without a field are ignored: a newer version may have added them. A wrong value becomes None, so what
    was made is of no use if there are faults.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def make(self, kind: Any, value: Any, where: str, **given: Any) -> Any:
        """Return a dataclass made from a JSON object. given: fields that are not in the object."""
        if not isinstance(value, Mapping):
            return self._fault(where, "must be an object")
        hints = _hints(kind)
        for field in fields(kind):
            item = value.get(field.name)
            if field.name in given:
                continue
            if item is not None:
                given[field.name] = self._value(hints[field.name], item, f"{where}.{field.name}")
            elif field.default is MISSING and field.default_factory is MISSING:
                given[field.name] = self._fault(f"{where}.{field.name}", "is missing")
        return kind(**given)

    def _value(self, kind: Any, value: Any, where: str) -> Any:
        arguments = get_args(kind)
        match get_origin(kind):
            case types.UnionType:  # of something and None, which never comes here
                return self._value(arguments[0], value, where)
            case origin if origin is tuple:
                return self._tuple(arguments, value, where)
            case origin if origin is Literal:
                if value in arguments:
                    return value
                return self._fault(where, f"must be {', '.join(arguments[:-1])} or {arguments[-1]}")
            case origin if origin is not None:
                if not isinstance(value, Mapping):
                    return self._fault(where, "must be an object")
                return {key: self._value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
        if kind is datetime:
            return self._time(value, where)
        if is_dataclass(kind):
            return self.make(kind, value, where)
        if kind is Any:
            return value
        # In JSON 3 is a good value for a time, and in Python True is an int.
        good = isinstance(value, int | float) if kind is float else isinstance(value, kind)
        if not good or (isinstance(value, bool) and kind is not bool):
            return self._fault(where, f"must be {_SCALARS[kind]}")
        return kind(value)

    def _tuple(self, kinds: tuple[Any, ...], value: Any, where: str) -> Any:
        if not isinstance(value, list):
            return self._fault(where, "must be a list")
        if kinds[-1] is ...:
            kinds = kinds[:1] * len(value)
        elif len(value) != len(kinds):
            return self._fault(where, f"must have {len(kinds)} entries")
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(self._value(kind, item, f"{where}[{index}]") for index, (kind, item) in pairs)

    def _time(self, value: Any, where: str) -> Any:
        try:
            found = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            return self._fault(where, "must be a time such as 2026-01-31T12:00:00Z")
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)

    def _fault(self, where: str, message: str) -> Any:
        self.faults.append(Fault(where=where, message=message))
        return None


# -- from events --------------------------------------------------------------------------------------------


def from_events(path: Path) -> BuildRecord:
    """Return what an event log says of its build, for a build that failed or was killed without a record."""
    begun: dict[str, Any] = {}
    ended: dict[str, Any] = {}
    steps: dict[str, dict[str, Any]] = {}
    rows: dict[str, list[Any]] = {"cleaned": [], "checks": [], "artifacts": [], "notes": []}
    counts: dict[str, int] = {}
    last = 0.0
    for event in read_events(path):
        time = _number(event.get("time"))
        last = max(last, time)
        name = str(event.get("step"))
        match event["event"]:
            case "build.started":
                begun = event
            case "step.started":
                steps[name] = {"name": name, "started": time}
            case "step.finished":
                step = steps.setdefault(name, {"name": name, "started": time})
                step |= {key: event[key] for key in ("state", "seconds", "reason") if key in event}
            case "cleaned":
                rows["cleaned"].append(event)
            case "checked":
                rows["checks"].append(event)
            case "artifact":
                rows["artifacts"].append(event)
            case "note" if event.get("level") != "debug":
                rows["notes"].append(event)
            case "counted":
                counts[str(event.get("name"))] = event.get("amount", 0)
            case "build.finished":
                ended = event
    if not begun:
        raise UsageError(f"{path} is not the event log of a build", hint="its first event is build.started")
    for step in steps.values():
        # A step that never finished is the one the build died in.
        step.setdefault("state", "failed")
        step.setdefault("seconds", max(0.0, last - step["started"]))
    message = str(ended.get("message") or "") if ended else "the event log ends before the build does"
    begin = _number(begun.get("time"))
    value = {
        **{key: begun.get(key) for key in ("build_id", "name", "version")},
        "started": datetime.fromtimestamp(begin, UTC).isoformat(),
        "seconds": ended.get("seconds", last - begin),
        "ok": ended.get("ok", False),
        "exit_code": ended.get("exit_code", 1),
        "error": None if ended.get("ok") else {"message": message or "the build failed"},
        "inputs": {"image": {"label": begun.get("image")}},
        "steps": list(steps.values()),
        "counts": counts,
        **rows,
    }
    return _checked(value, path)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
