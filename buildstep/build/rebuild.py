"""Build again what a build record is of, from what is here alone: `buildstep rebuild`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildstep.build import private_words, rebuild_inputs, rebuild_settings
from buildstep.build.make_lock import Room
from buildstep.build.proving import compare, trees
from buildstep.build.proving.compare import Difference
from buildstep.build.proving.job import Job, Outcome, alike, do
from buildstep.build.rebuild_proto import Places
from buildstep.build.rebuild_shared import Shelf
from buildstep.errors import BuildstepError, ImageError, InputMissingError, LockError, UsageError
from buildstep.pool.journal import open_journal
from buildstep.report.record import BuildRecord
from buildstep.spec.fields import BuildSpec
from buildstep.spec.shared_cache import SharedCache
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
    """What is to be built again. proto: where the proto directory is, a text for files:STORE#REF, None for
    where the record says; into: where the files go; hidden: what the record hides, by setting; shared: a
    shared cache."""

    record: BuildRecord
    into: Path
    proto: Path | str | None = None
    hidden: Mapping[str, str] = field(default_factory=dict)
    shared: SharedCache | None = None


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
    if asked.into.resolve() == record.path.parent.resolve():
        raise UsageError(
            f"the files would be written over those of {record.path}",
            hint="give another directory: -o DIR",
        )
    private_words.hide(room.bus, asked.hidden.values())
    spec = rebuild_settings.spec_of(record, asked.hidden)
    state = room.store.backend.state
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(open_journal(state, f"rebuild {spec.name} {spec.version}"))
        folder = journal.folder(state / "proving" / journal.ident)
        stack.callback(remove_tree, folder)
        network = stack.enter_context(contextlib.closing(NetworkNamespace()))
        shelf = stack.enter_context(contextlib.closing(Shelf(asked.shared, room)))
        places = Places(folder, asked.proto, network.prefix())
        spec = rebuild_inputs.ready(spec, record, room, places, shelf, told)
        spec = dataclasses.replace(alike(spec, folder, "again"), output_dir=asked.into)
        job = Job(
            name="again", spec=spec, pool=room.store.backend.uri, folder=folder,
            environ={**room.environ, **shelf.environ}, prefix=network.prefix(),
            hidden=tuple(asked.hidden.values()), shared=shelf.used, layer=shelf.layer,
        )  # fmt: skip
        with _missing_told(spec, record, room, shelf):
            outcome = do(job, room.bus)
        return _compared(asked, outcome, room, told)


@contextlib.contextmanager
def _missing_told(spec: BuildSpec, record: BuildRecord, room: Room, shelf: Shelf) -> Iterator[None]:
    """Turn the failure to have an input into one that says which, and where it was looked for."""
    try:
        yield
    except (LockError, ImageError) as error:
        image = record.input("image")
        label = image.get("label") or image.get("name") or "the base image"
        lines = (
            f"  key {image.get('key')}, uuid {image.get('uuid')}, tree {image.get('tree_digest')}",
            f"  looked for in the pool {room.store.backend.uri}, and without a network at {spec.image}",
            f"  {shelf.why_base or shelf.why}",
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
