"""A build record as reports see it: read, checked, and what can be worked out from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from buildstep.errors import UsageError
from buildstep.report.event_log import SUFFIX as EVENTS_SUFFIX
from buildstep.report.event_log import read_events
from buildstep.rootfs.interface import Finding, Package

RECORD_SUFFIX = ".buildrecord.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A step as it went. started: seconds since the epoch, 0 when it is not known."""

    name: str
    state: str
    reason: str = ""
    seconds: float = 0.0
    started: float = 0.0
    key: str = ""

    @property
    def ended(self) -> float:
        return self.started + self.seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """An image file that the build wrote."""

    path: str
    format: str
    size: int
    sha1: str = ""
    sha256: str = ""
    compression: str = ""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaner:
    """What a cleaner removed; names holds the first of its paths."""

    cleaner: str
    paths: int
    bytes: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Remark:
    """A note of the build, of level info, warning or error."""

    level: str
    text: str
    step: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A layer of the image, base first."""

    digest: str
    size: int
    diff_id: str = ""
    comment: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a build failed."""

    message: str
    detail: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A build. path: the file it was read from. audit: None when none was asked for."""

    path: Path
    build_id: str
    name: str
    version: str
    uuid: str
    started: datetime
    seconds: float
    ok: bool
    exit_code: int
    error: Failure | None
    inputs: Mapping[str, Any]
    steps: tuple[Step, ...]
    packages: tuple[Package, ...] = ()
    audit: tuple[Finding, ...] | None = None
    audit_text: str = ""
    cleaned: tuple[Cleaner, ...] = ()
    entropy: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()
    artifacts: tuple[Output, ...] = ()
    files_added: tuple[tuple[str, int], ...] = ()
    tree_digest: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[Remark, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def size(self) -> int:
        """Bytes of the first image file, which is the one that the manifest names."""
        return self.artifacts[0].size if self.artifacts else 0

    @property
    def base(self) -> str:
        image = self.input("image")
        return str(image.get("label") or image.get("name") or image.get("uuid") or "")

    @property
    def source(self) -> str:
        """The manifest's file as the build was given it, for tools that want a place to point at."""
        source = self.input("spec").get("source")
        return source if isinstance(source, str) and source and "{" not in source else "m.json"

    @property
    def reproducible(self) -> bool:
        """Whether the build was asked to give the same bytes each time."""
        return self.input("spec").get("source_date_epoch") is not None

    @property
    def problems(self) -> tuple[Remark, ...]:
        return tuple(note for note in self.notes if note.level in ("warning", "error"))

    def input(self, name: str) -> Mapping[str, Any]:
        value = self.inputs.get(name)
        return value if isinstance(value, Mapping) else {}


# -- what follows from a record ---------------------------------------------------------------------------


def critical_path(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The chain of steps that decided how long the build took, first to last.

    From the step that ended last, back to the one that ended last before it began, and so on. Where
    steps run one after another that is every step that took time; side by side, it is the slow side.
    """
    timed = [step for step in steps if step.seconds > 0]
    chain: list[Step] = []
    slack = 1e-3  # records round to milliseconds
    edge = max((step.ended for step in timed), default=0.0) + slack
    while timed:
        before = [step for step in timed if step.ended <= edge + slack and step not in chain]
        if not before:
            break
        last = max(before, key=lambda step: (step.ended, step.seconds))
        chain.append(last)
        edge = last.started
    return tuple(reversed(chain))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an image file is still what the record says; good is None when it is not there to look at."""

    good: bool | None
    text: str


def verify(record: Record, artifact: Output) -> Verdict:
    """Compare an image file with its record. It may have moved together with the record."""
    for path in (record.path.parent / artifact.name, Path(artifact.path)):
        with contextlib.suppress(OSError):
            size = path.stat().st_size
            if size != artifact.size:
                return Verdict(False, f"{path.name} has {size} bytes; {artifact.size} were written")
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if digest != artifact.sha256:
                return Verdict(False, f"{path.name} has sha256 {digest}; {artifact.sha256} was written")
            return Verdict(True, f"{path.name}: {size} bytes, sha256 {digest}")
    return Verdict(None, f"{artifact.name} is not on this machine")


def step_tail(events: Path | None, step: str, lines: int = 40) -> list[str]:
    """The last lines that tools printed in a step."""
    tail: deque[str] = deque(maxlen=lines)
    if events is not None:
        for event in read_events(events):
            if event["event"] == "output" and event.get("step") == step:
                tail.append(str(event.get("text", "")))
    return list(tail)


# -- finding and reading ------------------------------------------------------------------------------------


def find_events(record: Path) -> Path | None:
    """The event log that belongs to a record, or None."""
    if record.name.endswith(EVENTS_SUFFIX):
        return record
    stem = record.name.removesuffix(RECORD_SUFFIX).removesuffix(".json")
    path = record.with_name(stem + EVENTS_SUFFIX)
    return path if path.is_file() else None


def find_records(paths: Iterable[Path]) -> list[Path]:
    """The records that are meant: files as they are, for a directory those in it."""
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


def load(path: Path) -> Record:
    """Read a build record, or what an event log (of a build that failed, perhaps) says of its build."""
    from buildstep.report import parse

    try:
        if path.name.endswith(EVENTS_SUFFIX):
            return parse.from_events(path)
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(
            f"{path} is not a build record: {error}", hint=f"give the *{RECORD_SUFFIX} that a build wrote"
        ) from error
    return parse.from_json(value, path)


def moment(seconds: float) -> datetime:
    """Seconds since the epoch as a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC)
