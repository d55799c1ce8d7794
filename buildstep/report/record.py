"""The build record: what a build writes about itself, and what every reader gets.

`docs/reference/build-record.md` describes the JSON; the fields here have its names and its order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from buildstep.errors import ImageError
from buildstep.events import Level, Result, State
from buildstep.formats.oci.layout import verified
from buildstep.rootfs.interface import Finding, Package
from buildstep.spec.lock import LockedPackage
from buildstep.system.digest import sha256_file
from buildstep.system.files import size_of
from buildstep.system.text import plural, size_text

FORMAT = 1
"""The version of the JSON. Keys may be added to it; a key that changes its meaning needs another number."""

RECORD_SUFFIX = ".buildrecord.json"


@dataclass(kw_only=True, slots=True)
class Step:
    """One step of a build. started: seconds since the epoch, 0 if unknown; key: of the layer it made or
    reused. It can be changed while the step runs."""

    name: str
    state: State = "run"
    reason: str = ""
    seconds: float = 0.0
    started: float = 0.0
    key: str = ""

    @property
    def ended(self) -> float:
        return self.started + self.seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaner:
    """What a cleaner removed: how many paths, their bytes, and the names of the first of them."""

    cleaner: str
    paths: int = 0
    bytes: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command that ran in the image: its first line, how it ended, how long it took, and its name in
    `build.run`, if it has one."""

    command: str
    status: int = 0
    seconds: float = 0.0
    name: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """How a check of the finished image ended; see `events.Checked`."""

    check: str
    group: str = ""
    result: Result = "passed"
    seconds: float = 0.0
    message: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Remark:
    """A note of the build."""

    level: Level = "info"
    text: str = ""
    step: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What the audit of the packages printed, and the vulnerabilities it named."""

    text: str = ""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A layer of the image, base first. created_by: what the history says that it was made by.

    What it brings: files (paths that are no directories), their bytes, removed (paths that it takes away) and
    packages (`NAME VERSION`); None where the first of them were not counted. base: whether it is the base's.
    """

    digest: str = ""
    diff_id: str = ""
    size: int = 0
    comment: str = ""
    created_by: str = ""
    base: bool = False
    files: int | None = None
    bytes: int | None = None
    removed: int | None = None
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFile:
    """An image file that the build wrote, or a directory; see `emit.interface.Artifact`. sha1: empty where
    the manifest does not need it. extra: what its format adds, such as `incremental`."""

    path: str
    format: str = ""
    size: int = 0
    sha1: str = ""
    sha256: str = ""
    compression: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a build failed."""

    message: str = ""
    detail: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRecord:
    """One build. uuid, tree_digest: empty if it made no image; audit: None if none was asked for;
    files_added: the largest of them, path and bytes; trust: the files beside the image that prove it. path:
    the file that the record was read from; events: the event log that belongs to it, if there is one; neither
    is in the JSON."""

    build_id: str
    name: str
    version: str
    uuid: str = ""
    ok: bool
    exit_code: int = 0
    error: Failure | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    started: datetime
    seconds: float
    steps: tuple[Step, ...] = ()
    commands: tuple[Command, ...] = ()
    checks: tuple[Check, ...] = ()
    cleaned: tuple[Cleaner, ...] = ()
    notes: tuple[Remark, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    packages: tuple[Package, ...] = ()
    package_files: tuple[LockedPackage, ...] = ()
    audit: Audit | None = None
    entropy: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()
    artifacts: tuple[ImageFile, ...] = ()
    files_added: tuple[tuple[str, int], ...] = ()
    tree_digest: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)
    trust: Mapping[str, Any] = field(default_factory=dict)
    path: Path = field(default=Path(), compare=False)
    events: Path | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the file; `parse.from_json` reads it."""
        value = {"format": FORMAT, **asdict(self)}
        del value["path"], value["events"]
        started = self.started.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return value | {
            "uuid": self.uuid or None,
            "started": started,
            "tree_digest": self.tree_digest or None,
        }

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.audit.findings if self.audit else ()

    @property
    def size(self) -> int:
        """Bytes of the first image file, the one that the manifest describes."""
        return self.artifacts[0].size if self.artifacts else 0

    @property
    def base(self) -> str:
        image = self.input("image")
        return str(image.get("label") or image.get("name") or image.get("uuid") or "")

    @property
    def source(self) -> str:
        """The manifest's file as it was given to the build, for tools that need a file to point at."""
        source = self.input("spec").get("source")
        return source if isinstance(source, str) and source and "{" not in source else "m.json"

    @property
    def reproducible(self) -> bool:
        """Whether the build was asked to give the same bytes each time."""
        return self.input("spec").get("source_date_epoch") is not None

    @property
    def reused(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.state == "reuse")

    @property
    def shared(self) -> str:
        """What the cache that agents share was good for, in words; empty for nothing."""
        count = self.counts.get
        if not (hits := count("shared_hits", 0)):
            return ""
        size, seconds, saved = (
            count(f"shared_{name}", 0) for name in ("bytes_in", "seconds", "saved_seconds")
        )
        return f"{plural(hits, 'hit')} of the shared cache: {size_text(size)} in {seconds} s, {saved} s saved"

    @property
    def problems(self) -> tuple[Remark, ...]:
        return tuple(note for note in self.notes if note.level in ("warning", "error"))

    def input(self, name: str) -> Mapping[str, Any]:
        value = self.inputs.get(name)
        return value if isinstance(value, Mapping) else {}


# -- what follows from a record ---------------------------------------------------------------------------


def critical_path(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Return the chain of steps that decided how long the build took, first to last.

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
    """Whether an image file is still what the record says; good is None if it is not on this machine."""

    good: bool | None
    text: str


def verify(record: BuildRecord, artifact: ImageFile) -> Verdict:
    """Compare an image file with its record. The two may have been moved together."""
    for path in (record.path.parent / artifact.name, Path(artifact.path)):
        with contextlib.suppress(OSError):
            size = size_of(path)
            if size != artifact.size:
                return Verdict(False, f"{path.name} has {size} bytes; {artifact.size} were written")
            try:
                digest = verified(path) if path.is_dir() else sha256_file(path)
            except ImageError as error:
                return Verdict(False, error.message)
            if digest != artifact.sha256:
                return Verdict(False, f"{path.name} has sha256 {digest}; {artifact.sha256} was written")
            return Verdict(True, f"{path.name}: {size} bytes, sha256 {digest}")
    return Verdict(None, f"{artifact.name} is not on this machine")
