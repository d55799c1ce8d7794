"""Build again what a build record is of, from what is here alone: `buildstep rebuild`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildstep.build import rebuild_inputs
from buildstep.build.make_lock import Room
from buildstep.build.proving import compare, trees
from buildstep.build.proving.compare import Difference
from buildstep.build.proving.job import Job, Outcome, alike, do
from buildstep.errors import BuildstepError, ImageError, InputMissingError, LockError, UsageError
from buildstep.events import HIDDEN
from buildstep.pool.journal import open_journal
from buildstep.report.record import BuildRecord
from buildstep.spec import restore
from buildstep.spec.fields import BuildSpec
from buildstep.system.netns import NetworkNamespace
from buildstep.system.remove import remove_tree


@dataclass(frozen=True, kw_only=True, slots=True)
class Again:
    """What came of it.

    digests: recorded and made now, by what they are of; expected: those that have to be the same; inputs:
    what was used, and where it was; notes: for people; files: what was written.
    """

    digests: Mapping[str, tuple[str, str]]
    expected: tuple[str, ...]
    differences: tuple[Difference, ...]
    inputs: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    files: tuple[str, ...]
    seconds: float

    @property
    def equal(self) -> bool:
        return all(self.digests[name][0] == self.digests[name][1] for name in self.expected)

    def to_json(self) -> dict[str, Any]:
        """Return the object that --json prints."""
        return {
            "equal": self.equal,
            "digests": {name: list(pair) for name, pair in self.digests.items()},
            "compared": list(self.expected),
            "differences": [row.to_json() for row in self.differences],
            "inputs": [{"input": what, "from": where} for what, where in self.inputs],
            "notes": list(self.notes),
            "files": list(self.files),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is to be built again. proto: where the proto directory is, None for where the record says; into:
    where the files go."""

    record: BuildRecord
    into: Path
    proto: Path | None = None


@dataclass(kw_only=True, slots=True)
class Told:
    """What is told of a rebuild on the way."""

    inputs: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def rebuild(asked: Asked, room: Room) -> Again:
    """Build again in a network namespace that has nothing but a loopback, and compare with the record.

    Raises InputMissingError for the first input that is not here, and what a build raises.
    """
    record, told = asked.record, Told()
    spec = _spec(asked)
    state = room.store.backend.state
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(open_journal(state, f"rebuild {spec.name} {spec.version}"))
        folder = journal.folder(state / "proving" / journal.ident)
        stack.callback(remove_tree, folder)
        network = stack.enter_context(contextlib.closing(NetworkNamespace()))
        places = rebuild_inputs.Places(folder, asked.proto, network.prefix())
        spec = rebuild_inputs.ready(spec, record, room, places, told)
        spec = dataclasses.replace(alike(spec, folder, "again"), output_dir=asked.into)
        job = Job(
            name="again", spec=spec, pool=room.store.backend.uri, folder=folder,
            environ=dict(room.environ), prefix=network.prefix(),
        )  # fmt: skip
        with _missing_told(spec, record, room):
            outcome = do(job, room.bus)
        return _compared(asked, outcome, room, told)


def _spec(asked: Asked) -> BuildSpec:
    """Return what the record says that was built. Raises UsageError where it does not say all of it."""
    record = asked.record
    source, value = str(record.path), record.input("spec")
    if not record.ok or not record.tree_digest:
        raise UsageError(f"{source} is the record of a build that made no image")
    if not value:
        raise UsageError(f"{source} has no settings (inputs.spec): an event log or another tool's record")
    if asked.into.resolve() == record.path.parent.resolve():
        raise UsageError(
            f"the files would be written over those of {source}", hint="give another directory: -o DIR"
        )
    if hidden := _hidden(value, "inputs.spec"):
        raise InputMissingError(
            f"{source} does not have {hidden}: it was a secret, and is in no record",
            hint="build from the m.json, and compare the digests",
        )
    spec = restore.of_json(value, source)
    if "files" in spec.formats:
        spec = dataclasses.replace(spec, formats=tuple(name for name in spec.formats if name != "files"))
    return dataclasses.replace(spec, formats=spec.formats or ("tar",))


_PATTERNS = ("exclude", "replace", "owner", "modes", "allow", "outputs")
"""Settings that have patterns, in which three stars are a word of rsync's."""


def _hidden(value: Any, where: str) -> str:
    """Return where a text is that was hidden from the record; empty for nowhere."""
    if where.rpartition(".")[2] in _PATTERNS:
        return ""
    if isinstance(value, str):
        return where if HIDDEN in value else ""
    rows: Iterator[tuple[object, Any]] = iter(())
    if isinstance(value, Mapping):
        rows = iter(value.items())
    elif isinstance(value, list):
        rows = iter(enumerate(value))
    return next((found for key, part in rows if (found := _hidden(part, f"{where}.{key}"))), "")


@contextlib.contextmanager
def _missing_told(spec: BuildSpec, record: BuildRecord, room: Room) -> Iterator[None]:
    """Turn the failure to have an input into one that says which, and where it was looked for."""
    try:
        yield
    except (LockError, ImageError) as error:
        image = record.input("image")
        label = image.get("label") or image.get("name") or "the base image"
        lines = (
            f"  key {image.get('key')}, uuid {image.get('uuid')}, tree {image.get('tree_digest')}",
            f"  looked for in the pool {room.store.backend.uri}, and without a network at {spec.image}",
            error.detail,
        )
        raise InputMissingError(
            f"the base image {label} is not here as it was: {error.message}",
            detail="\n".join(filter(None, lines)),
            hint="bring it into the pool with `buildstep image import`, where there is a network",
        ) from error
    except BuildstepError as error:
        if _networked(spec):
            error.hint = (
                f"{error.hint}; what commands of the build got from the network is in no record".lstrip("; ")
            )
        raise


def _networked(spec: BuildSpec) -> bool:
    return spec.run_options.network or any(command.network for command in spec.run)


# -- what came of it ----------------------------------------------------------------------------------------


def _compared(asked: Asked, outcome: Outcome, room: Room, told: Told) -> Again:
    record = asked.record
    now, then = outcome.digests(), {"tree": record.tree_digest}
    for file in record.artifacts:
        then[file.format] = file.sha256
        if digest := file.extra.get("digest"):
            then[f"{file.format} image"] = str(digest).removeprefix("sha256:")
    names = [name for name in now if name in then]
    expected = ["tree"]
    if record.reproducible:
        expected += [name for name in names if name.partition(" ")[0] in trees.LISTED]
    else:
        told.notes.append(
            "the build had no SOURCE_DATE_EPOCH: its files have the time of that build, and only the tree can"
            " be the same (names, content, modes, owners)"
        )
    told.notes += _other_tools(record.tools, outcome.tools)
    digests = {name: (then[name], now[name]) for name in names}
    differing = [name for name in expected if digests[name][0] != digests[name][1]]
    rows = _differences(asked, outcome, room, differing) if differing else []
    if differing and not rows:
        told.notes.append(
            "which files differ cannot be told: the image file of the record is not beside it, or cannot be"
            " listed"
        )
    return Again(
        digests=digests,
        expected=tuple(expected),
        differences=tuple(rows),
        inputs=tuple(told.inputs),
        notes=tuple(told.notes),
        files=tuple(str(file["path"]) for file in outcome.files),
        seconds=outcome.ended - outcome.began,
    )


def _other_tools(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return what was made with other versions: each may be why bytes differ."""
    return [
        f"{name} was {then[name]}, and is {now[name]} here"
        for name in then
        if name in now and then[name] != now[name] and name != "kernel"
    ]


def _differences(asked: Asked, outcome: Outcome, room: Room, differing: list[str]) -> list[Difference]:
    """Return what differs from the image file of the record, path by path, where that is still there."""
    record = asked.record
    files = [
        {"format": file.format, "sha256": file.sha256, "extra": dict(file.extra), "path": str(path)}
        for file in record.artifacts
        for path in (record.path.parent / file.name, Path(file.path))
        if path.exists()
    ]
    if trees.file_of(files) is None or trees.file_of(outcome.files) is None:
        return []
    began = record.started.timestamp()
    manifest = record.path.parent / outcome.manifest.name
    before = dataclasses.replace(
        outcome,
        began=began,
        ended=began + record.seconds,
        files=tuple(files),
        manifest=manifest if manifest.is_file() else outcome.manifest,
    )
    pair = compare.pair_of(before, outcome, room.bus, room.environ)
    formats = [name.partition(" ")[0] for name in differing]
    rows = compare.differences(pair, formats, room.bus, room.environ)
    if "tree" in differing and not record.reproducible:
        rows = [row for row in rows if row.kind != "file time" and row.step != "emit"]
    return rows
