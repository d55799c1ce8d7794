"""From JSON to a checked record: every fault of a file is told at once, with its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from buildstep.errors import Fault, SpecError, UsageError
from buildstep.report.event_log import read_events
from buildstep.report.record import Cleaner, Failure, Layer, Output, Record, Remark, Step, moment
from buildstep.report.recorder import FORMAT
from buildstep.rootfs.interface import Finding, Package

T = TypeVar("T")

_KINDS: dict[type, str] = {str: "a string", bool: "true or false", int: "a whole number", float: "a number"}


class _Reader:
    """Takes values out of JSON objects; what is not of the right type is noted, and a default taken."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def get(self, source: Mapping[str, Any], key: str, default: T, where: str, *, needed: bool = False) -> T:
        value = source.get(key)
        if value is None:
            if needed:
                self.fault(f"{where}.{key}", "is missing")
            return default
        kind = type(default)
        # In JSON 3 is a good value for a time, and in Python True is an int.
        good = isinstance(value, int | float) if kind is float else isinstance(value, kind)
        if not good or (isinstance(value, bool) and kind is not bool):
            self.fault(f"{where}.{key}", f"must be {_KINDS.get(kind, 'an object')}")
            return default
        return kind(value) if kind is float else value  # type: ignore[call-arg]

    def rows(
        self, source: Mapping[str, Any], key: str, make: Callable[[Any, str], T | None]
    ) -> tuple[T, ...]:
        value = source.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.fault(f"$.{key}", "must be a list")
            return ()
        made = (make(row, f"$.{key}[{index}]") for index, row in enumerate(value))
        return tuple(row for row in made if row is not None)

    def object(self, row: Any, where: str) -> Mapping[str, Any]:
        if isinstance(row, Mapping):
            return row
        self.fault(where, "must be an object")
        return {}

    def text(self, row: Any, where: str) -> str | None:
        if isinstance(row, str):
            return row
        self.fault(where, "must be a string")
        return None

    def fault(self, where: str, message: str) -> None:
        self.faults.append(Fault(where=where, message=message))


def from_json(value: Any, path: Path) -> Record:
    """A record from a JSON document. Raises UsageError for another format version, SpecError for faults."""
    if not isinstance(value, Mapping) or "format" not in value or "build_id" not in value:
        raise UsageError(
            f"{path} is not a build record", hint="give the *.buildrecord.json that a build wrote"
        )
    version = value["format"]
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        hint = "a newer buildstep wrote it: upgrade this one" if newer else "build again to get a new record"
        raise UsageError(f"{path} has record format {version!r}; this buildstep reads {FORMAT}", hint=hint)
    reader = _Reader()
    record = _record(reader, value, path)
    if reader.faults:
        raise SpecError(str(path), reader.faults)
    return record


def _record(reader: _Reader, value: Mapping[str, Any], path: Path) -> Record:
    def get(key: str, default: T, *, needed: bool = False) -> T:
        return reader.get(value, key, default, "$", needed=needed)

    def package(row: Any, where: str) -> Package:
        row = reader.object(row, where)
        texts = {key: reader.get(row, key, "", where) for key in ("version", "arch", "source", "license")}
        return Package(name=reader.get(row, "name", "", where, needed=True), **texts)

    def layer(row: Any, where: str) -> Layer:
        row = reader.object(row, where)
        texts = {key: reader.get(row, key, "", where) for key in ("digest", "diff_id", "comment")}
        return Layer(size=reader.get(row, "size", 0, where), **texts)

    def remark(row: Any, where: str) -> Remark:
        row = reader.object(row, where)
        texts = {key: reader.get(row, key, "", where) for key in ("text", "step")}
        return Remark(level=reader.get(row, "level", "info", where), **texts)

    nothing: dict[str, Any] = {}
    inputs, counts, tools = get("inputs", nothing), get("counts", nothing), get("tools", nothing)
    error, audit = value.get("error"), value.get("audit")
    if error is not None:
        error = reader.object(error, "$.error")
    findings: tuple[Finding, ...] | None = None
    if audit is not None:
        audit = reader.object(audit, "$.audit")
        findings = reader.rows(audit, "findings", lambda row, where: _finding(reader, row, where))
    return Record(
        path=path,
        build_id=get("build_id", "", needed=True),
        name=get("name", "", needed=True),
        version=get("version", "", needed=True),
        uuid=get("uuid", ""),
        started=_time(reader, get("started", "", needed=True)),
        seconds=get("seconds", 0.0, needed=True),
        ok=get("ok", False, needed=True),
        exit_code=get("exit_code", 0),
        error=None if error is None else _failure(reader, error),
        inputs=inputs,
        steps=reader.rows(value, "steps", lambda row, where: _step(reader, row, where)),
        packages=reader.rows(value, "packages", package),
        audit=findings,
        audit_text=reader.get(audit, "text", "", "$.audit") if audit else "",
        cleaned=reader.rows(value, "cleaned", lambda row, where: _cleaner(reader, row, where)),
        entropy=reader.rows(value, "entropy", reader.text),
        layers=reader.rows(value, "layers", layer),
        artifacts=reader.rows(value, "artifacts", lambda row, where: _output(reader, row, where)),
        files_added=reader.rows(value, "files_added", lambda row, where: _added(reader, row, where)),
        tree_digest=get("tree_digest", ""),
        counts={key: row for key, row in counts.items() if isinstance(row, int)},
        notes=reader.rows(value, "notes", remark),
        tools={key: str(row) for key, row in tools.items()},
    )


def _time(reader: _Reader, text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        if text:
            reader.fault("$.started", "must be a time such as 2026-01-31T12:00:00Z")
        return moment(0)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _failure(reader: _Reader, row: Mapping[str, Any]) -> Failure:
    texts = {key: reader.get(row, key, "", "$.error") for key in ("message", "detail", "hint")}
    return Failure(**texts)


def _step(reader: _Reader, row: Any, where: str) -> Step:
    row = reader.object(row, where)
    state = reader.get(row, "state", "run", where)
    if state not in ("run", "reuse", "skip", "failed"):
        reader.fault(f"{where}.state", "must be run, reuse, skip or failed")
    return Step(
        name=reader.get(row, "name", "", where, needed=True),
        state=state,
        reason=reader.get(row, "reason", "", where),
        seconds=max(0.0, reader.get(row, "seconds", 0.0, where)),
        started=reader.get(row, "started", 0.0, where),
        key=reader.get(row, "key", "", where),
    )


def _finding(reader: _Reader, row: Any, where: str) -> Finding:
    where = where.replace("$.", "$.audit.", 1)
    row = reader.object(row, where)
    texts = {key: reader.get(row, key, "", where) for key in ("version", "problem", "url", "severity")}
    return Finding(package=reader.get(row, "package", "", where, needed=True), **texts)


def _output(reader: _Reader, row: Any, where: str) -> Output:
    row = reader.object(row, where)
    texts = {key: reader.get(row, key, "", where) for key in ("format", "sha1", "sha256", "compression")}
    path = reader.get(row, "path", "", where, needed=True)
    return Output(path=path, size=reader.get(row, "size", 0, where), **texts)


def _cleaner(reader: _Reader, row: Any, where: str) -> Cleaner:
    row = reader.object(row, where)
    names = row.get("names")
    return Cleaner(
        cleaner=reader.get(row, "cleaner", "", where, needed=True),
        paths=reader.get(row, "paths", 0, where),
        bytes=reader.get(row, "bytes", 0, where),
        names=tuple(str(name) for name in names) if isinstance(names, list) else (),
    )


def _added(reader: _Reader, row: Any, where: str) -> tuple[str, int] | None:
    if isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], int):
        return row[0], row[1]
    reader.fault(where, "must be a path and a size")
    return None


# -- a record from events ---------------------------------------------------------------------------------


def from_events(path: Path) -> Record:
    """What an event log says of its build: for builds that failed or were killed and left no record."""
    reader = _Reader()
    begun: dict[str, Any] = {}
    ended: dict[str, Any] = {}
    steps: dict[str, dict[str, Any]] = {}
    rows: dict[str, list[Any]] = {"cleaned": [], "artifacts": [], "notes": []}
    counts: dict[str, int] = {}
    last = 0.0
    for event in read_events(path):
        time = reader.get(event, "time", 0.0, "$")
        last = max(last, time)
        match event["event"]:
            case "build.started":
                begun = event
            case "step.started":
                steps[str(event.get("step"))] = {"name": str(event.get("step")), "started": time}
            case "step.finished":
                step = steps.setdefault(str(event.get("step")), {"name": str(event.get("step"))})
                step |= {key: event[key] for key in ("state", "seconds", "reason") if key in event}
                step.setdefault("started", time)
            case "cleaned":
                rows["cleaned"].append(event)
            case "artifact":
                rows["artifacts"].append(event)
            case "note" if event.get("level") != "debug":
                rows["notes"].append(event)
            case "counted":
                counts[str(event.get("name"))] = int(event.get("amount", 0))
            case "build.finished":
                ended = event
    if not begun:
        raise UsageError(f"{path} is not the event log of a build", hint="its first event is build.started")
    for step in steps.values():
        # A step that never finished is the one the build died in.
        step.setdefault("state", "failed")
        step.setdefault("seconds", max(0.0, last - step["started"]))
    message = str(ended.get("message") or "") if ended else "the event log ends before the build does"
    value = {
        **{key: begun.get(key) for key in ("build_id", "name", "version")},
        "started": moment(float(begun.get("time", 0.0))).isoformat(),
        "seconds": ended.get("seconds", last - float(begun.get("time", 0.0))),
        "ok": ended.get("ok", False),
        "exit_code": ended.get("exit_code", 1),
        "error": None if ended.get("ok") else {"message": message or "the build failed"},
        "inputs": {"image": {"label": begun.get("image")}},
        "steps": list(steps.values()),
        "counts": counts,
        **rows,
    }
    record = _record(reader, value, path)
    if reader.faults:
        raise SpecError(str(path), reader.faults)
    return record
