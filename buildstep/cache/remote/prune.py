"""Make a shared cache smaller: records first, their bytes a day later.

A record goes when nobody has used it for so long, or, the longest unused first, when the store is larger than
it may be. Bytes that no record names any more stay for a day (`GRACE`): a reader who found their record just
before it went can still fetch them, and a writer who builds on them names them again. What waits for its end
is written down in `gc/condemned`, as stores do not say since when nobody has named a blob.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from buildstep.cache.remote import backend as storage
from buildstep.cache.remote import envelope, names, parts
from buildstep.cache.remote.backend import Backend
from buildstep.cache.remote.calls import Calls
from buildstep.cache.remote.interface import Output, Unusable
from buildstep.files.interface import Item, Missing, Unlistable
from buildstep.system.digest import sha256_bytes

GRACE = 24 * 3600.0
_DAY = 24 * 3600.0
_BATCH = 500


def _end_of(day: str) -> float | None:
    """Return when a day (YYYYMMDD) is over; None for what is no day."""
    try:
        return datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC).timestamp() + _DAY
    except (ValueError, OverflowError):
        return None


@dataclass(slots=True)
class Pruned:
    """What a prune did. records, blobs: that were removed; freed: bytes of those; waiting: bytes that no
    record names, and that go later; left: bytes that records name; unreadable: records that were removed
    because nobody could read them."""

    records: int = 0
    blobs: int = 0
    freed: int = 0
    waiting: int = 0
    left: int = 0
    unreadable: int = 0


class _Record(NamedTuple):
    """A record that is in the store. blobs: by name, with their sizes where the record says them."""

    name: str
    used: float
    blobs: Mapping[str, int]


@dataclass(slots=True)
class Prune:
    """One prune. older_than, grace: seconds; max_size: bytes; None: no limit; now: since the epoch."""

    backend: Backend
    calls: Calls
    older_than: float | None = None
    max_size: int | None = None
    grace: float = GRACE
    now: float = field(default_factory=time.time)
    done: Pruned = field(default_factory=Pruned)

    def run(self) -> Pruned:
        """Prune. Raises StoreError, ReadOnly, Unlistable where the store cannot say what it has."""
        there = {item.name: item for item in self.backend.list(names.AC)}
        used = self._used()
        blobs = self._blobs()
        records = sorted(self._read(there.values(), used), key=lambda record: record.used)
        kept = self._chosen(records, blobs)
        gone = {record.name for record in records} - {record.name for record in kept}
        self._delete(self._with_marks(gone, there))
        self.done.records = len(gone)
        if blobs is not None:
            self._sweep(blobs, kept, set(there))
        return self.done

    def _used(self) -> dict[str, float]:
        """Return when records were used last, by the marks of readers; older marks are removed."""
        found: dict[str, float] = {}
        old = []
        try:
            for item in self.backend.list(names.USED):
                if (mark := names.used_of(item.name)) is None or (at := _end_of(mark[0])) is None:
                    continue
                # A mark of a day to come, whoever made it, keeps nothing for longer.
                at = min(at, self.now + _DAY)
                found[mark[1]] = max(at, found.get(mark[1], 0.0))
                if self.older_than is not None and at < self.now - self.older_than:
                    old.append(item.name)
        except Unlistable:
            return {}
        self._delete(old)
        return found

    def _blobs(self) -> dict[str, Item] | None:
        """Return the blobs by name; None where a store does not tell them, and removes them itself."""
        try:
            return {item.name: item for item in self.backend.list(names.CAS) if names.digest_of(item.name)}
        except Unlistable:
            return None

    # -- records ---------------------------------------------------------------------------------------

    def _read(self, items: Iterable[Item], used: Mapping[str, float]) -> Iterator[_Record]:
        """Yield the records, with all blobs that each needs. One that cannot be read is removed."""
        waiting: list[tuple[Item, Future[dict[str, int]]]] = []
        for item in items:
            if names.record_of(item.name) is None:
                continue
            waiting.append((item, self.calls.start(lambda name=item.name: self._needed(name))))  # type: ignore[misc]
            if len(waiting) > 2 * storage.AT_ONCE:
                yield from self._known(*waiting.pop(0), used)
        for row in waiting:
            yield from self._known(*row, used)

    def _known(
        self, item: Item, future: Future[dict[str, int]], used: Mapping[str, float]
    ) -> Iterator[_Record]:
        try:
            yield _Record(item.name, max(item.modified, used.get(item.name, 0.0)), future.result())
        except Missing:
            return
        except Unusable:
            self.done.unreadable += 1
            yield _Record(item.name, 0.0, {})

    def _needed(self, name: str) -> dict[str, int]:
        """Return the blobs of a record. Raises Unusable, Missing, StoreError."""
        parsed = names.record_of(name)
        assert parsed is not None
        sealed = envelope.parse(self.backend.small(name, envelope.LARGEST))
        found: dict[str, int] = {}
        for output in envelope.outputs_of(sealed):
            if not output.data and output.size:
                found |= self._blobs_of(output)
        return found

    def _blobs_of(self, output: Output) -> dict[str, int]:
        if not output.parts:
            return {names.blob_name(output.digest): output.size}
        name = names.blob_name(output.parts)
        data = self.backend.small(name, parts.LARGEST)
        if sha256_bytes(data) != output.parts:
            raise Unusable(f"{name} is damaged")
        table = parts.parse(data, output.size)
        sources = (*table.sources, table.patch) if table.patch else table.sources
        return {name: len(data)} | {names.blob_name(source.digest): source.size for source in sources}

    def _chosen(self, records: list[_Record], blobs: Mapping[str, Item] | None) -> list[_Record]:
        """Return the records that stay. records: the longest unused first."""
        kept = [
            record
            for record in records
            if record.used > 0 and (self.older_than is None or record.used >= self.now - self.older_than)
        ]
        users: dict[str, int] = {}
        size = 0

        def size_of(name: str, told: int) -> int:
            if blobs is None:
                return told
            return blobs[name].size if name in blobs else 0

        for record in kept:
            for name, told in record.blobs.items():
                users[name] = users.get(name, 0) + 1
                size += size_of(name, told) if users[name] == 1 else 0
        while kept and self.max_size is not None and size > self.max_size:
            for name, told in kept.pop(0).blobs.items():
                users[name] -= 1
                size -= size_of(name, told) if not users[name] else 0
        self.done.left = size
        return kept

    def _with_marks(self, gone: set[str], there: Iterable[str]) -> list[str]:
        """Return records with the marks of their slots."""
        return sorted(gone) + [name for name in there if names.record_of_slot(name) in gone]

    def _delete(self, gone: Iterable[str]) -> None:
        rows = list(gone)
        for begin in range(0, len(rows), _BATCH):
            self.backend.delete(rows[begin : begin + _BATCH])

    # -- blobs -----------------------------------------------------------------------------------------

    def _sweep(self, blobs: Mapping[str, Item], kept: Iterable[_Record], before: set[str]) -> None:
        """Remove blobs that no record has named for long enough, and write down which wait for that."""
        named = {name for record in kept for name in record.blobs}
        old, version = self._condemned()
        waiting = {name: old.get(name, self.now) for name in blobs if name not in named}
        due = {
            name
            for name, since in waiting.items()
            if since <= self.now - self.grace and blobs[name].modified <= self.now - self.grace
        }
        if due:
            # Records that came meanwhile may name some of them.
            items = [item for item in self.backend.list(names.AC) if item.name not in before]
            for record in self._read(items, {}):
                due -= record.blobs.keys()
        self._delete(sorted(due))
        rest = {name: since for name, since in waiting.items() if name not in due}
        self.done.blobs = len(due)
        self.done.freed = sum(blobs[name].size for name in due)
        self.done.waiting = sum(blobs[name].size for name in rest)
        if rest != old:
            # Another prune may have written it meanwhile: then its list is as good.
            self.backend.storage.swap(names.CONDEMNED, json.dumps(rest).encode(), version)

    def _condemned(self) -> tuple[dict[str, float], str | None]:
        there = self.backend.storage.load(names.CONDEMNED)
        if there is None:
            return {}, None
        try:
            return {str(name): float(at) for name, at in json.loads(there.data).items()}, there.version
        except (ValueError, AttributeError, TypeError):
            return {}, there.version
