"""Build twice in other surroundings, and say what differs and why: `buildstep prove`."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildstep.build import make_lock
from buildstep.build.make_lock import Room
from buildstep.build.proving import compare, trees, variations
from buildstep.build.proving.causes import FIXES
from buildstep.build.proving.compare import Difference
from buildstep.build.proving.job import Job, Outcome, alike, do
from buildstep.errors import LockError, UsageError
from buildstep.pool.journal import open_journal
from buildstep.spec.fields import BuildSpec
from buildstep.system.remove import remove_tree

_LEAST_APART = 2.1
"""Seconds between the beginnings of two builds: an archive of zip has every second one only."""

_KINDS_TOLD = ("unknown", "order")
"""Classes of differences of which another build can tell more."""
_LIKELY = {"order": ("order", "cpus", "locale")}
"""What makes differences of a class, most often: it is tried first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What came of it. digests: of each build, by what they are of; varied: what was; not_varied: what was
    not, and why; notes: for people."""

    digests: tuple[Mapping[str, str], Mapping[str, str]]
    varied: tuple[str, ...]
    not_varied: Mapping[str, str]
    differences: tuple[Difference, ...]
    seconds: float
    builds: int
    notes: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        return not self.differences

    def to_json(self) -> dict[str, Any]:
        """Return the object that --json prints."""
        return {
            "equal": self.equal,
            "digests": [dict(row) for row in self.digests],
            "varied": list(self.varied),
            "not_varied": dict(self.not_varied),
            "differences": [row.to_json() for row in self.differences],
            "builds": self.builds,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
        }


@dataclass(kw_only=True, slots=True)
class _Proving:
    """Two builds in the making. builds: how many were done so far."""

    room: Room
    folder: Path
    spec: BuildSpec
    formats: tuple[str, ...]
    builds: int = 0
    notes: list[str] = field(default_factory=list)

    def job(self, name: str) -> Job:
        spec = alike(self.spec, self.folder, name)
        return Job(
            name=name, spec=spec, pool=self.room.store.backend.uri, folder=self.folder,
            environ=dict(self.room.environ),
        )  # fmt: skip

    def do(self, name: str, names: Sequence[str]) -> Outcome:
        """Build with these variations."""
        self.builds += 1
        what = f"varied: {', '.join(names)}" if names else "as it is here"
        self.room.bus.note(f"build {self.builds}: {what}")
        return do(variations.varied(self.job(name), names), self.room.bus)


def prove(spec: BuildSpec, room: Room, names: Sequence[str], *, isolate: bool = True) -> Proof:
    """Build twice, the second time with these variations, and compare. Packages are downloaded once.

    isolate: build again where that tells more of a difference: with nothing varied, and with one variation at
    a time. Raises what a build raises.
    """
    began = time.monotonic()
    able, unable = variations.possible(names)
    with _room(spec, room) as proving:
        begin = time.monotonic()
        first = proving.do("first", ())
        time.sleep(max(0.0, _LEAST_APART - (time.monotonic() - begin)))
        second = proving.do("second", able)
        rows: list[Difference] = []
        if not compare.equal(first, second, proving.formats):
            pair = compare.pair_of(first, second, room.bus, room.environ)
            rows = compare.differences(pair, proving.formats, room.bus, room.environ)
            if isolate and any(row.kind in _KINDS_TOLD for row in rows):
                rows = _isolated(proving, first, rows, able)
        return Proof(
            digests=(first.digests(), second.digests()),
            varied=able,
            not_varied=unable,
            differences=tuple(rows),
            seconds=time.monotonic() - began,
            builds=proving.builds,
            notes=tuple(proving.notes),
        )


@contextlib.contextmanager
def _room(spec: BuildSpec, room: Room) -> Iterator[_Proving]:
    """Make ready what both builds use, and a directory for what they write, which is gone afterwards."""
    if "files" in spec.formats:
        formats = tuple(name for name in spec.formats if name != "files")
        if not formats:
            raise UsageError(
                "the format files records an image in a store, and proving writes nothing there",
                hint="name another format as well: --format oci",
            )
        spec = dataclasses.replace(spec, formats=formats)
    wanted = spec.formats
    spec = dataclasses.replace(spec, formats=trees.formats_for(wanted))
    state = room.store.backend.state
    with open_journal(state, f"prove {spec.name} {spec.version}") as journal:
        folder = journal.folder(state / "proving" / journal.ident)
        try:
            proving = _Proving(room=room, folder=folder, spec=spec, formats=wanted)
            if streams := sorted(set(wanted) - set(trees.LISTED)):
                proving.notes.append(
                    f"of {', '.join(streams)} the tree is compared: a stream has ids of its own"
                )
            proving.spec = _with_inputs(spec, room, proving.notes)
            yield proving
        finally:
            remove_tree(folder)


def _with_inputs(spec: BuildSpec, room: Room, notes: list[str]) -> BuildSpec:
    """Return the spec with what its base and its packages are. They are fetched here, and never again."""
    if spec.lock is not None:
        return spec
    room.bus.note("the base image and the packages are made ready for both builds")
    try:
        return dataclasses.replace(spec, lock=make_lock.make(spec, room))
    except LockError as error:
        notes.append(f"each build fetches packages by itself: {error.message}")
        return spec


def _isolated(
    proving: _Proving, first: Outcome, rows: Sequence[Difference], names: Sequence[str]
) -> list[Difference]:
    """Return differences with what makes them, found by building again: first with nothing varied, then with
    one variation at a time, until there is nothing more to find."""
    room, done = proving.room, list(rows)
    left = {row.key for row in rows if row.kind in _KINDS_TOLD}
    likely = [name for row in rows for name in _LIKELY.get(row.kind, ()) if name in names]
    # Only which paths differ is asked now, and a plain archive takes least.
    proving.spec = dataclasses.replace(proving.spec, formats=("tar",), compression="none")
    for name in dict.fromkeys(("", *likely, *names)):
        if not left:
            break
        other = proving.do(f"with-{name or 'nothing'}", [name] if name else [])
        pair = compare.pair_of(first, other, room.bus, room.environ)
        found = {row.key for row in compare.differences(pair, proving.formats, room.bus, room.environ)}
        for at, row in enumerate(done):
            if row.key not in left or row.key not in found:
                continue
            done[at] = _by_chance(row) if not name else _by(row, name)
        left -= found
        remove_tree(other.job.outputs)
    return done


def _by_chance(row: Difference) -> Difference:
    """Return a difference that two builds in the same surroundings have as well."""
    kind = "random" if row.kind == "unknown" else row.kind
    seen = row.seen or "by chance, or by the time: it differs in every build"
    return dataclasses.replace(row, kind=kind, seen=seen, fix=row.fix or FIXES[kind], varied="nothing")


def _by(row: Difference, name: str) -> Difference:
    """Return a difference that one variation alone makes."""
    kind = variations.VARIATIONS[name].cause
    return dataclasses.replace(row, kind=kind, fix=FIXES[kind], varied=name)
