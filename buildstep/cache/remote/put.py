"""Put a record: bytes first, the record last, nothing that is there written again.

Whoever reads a record finds all its bytes: an upload that is killed leaves bytes that no record names, which
a prune removes, and never a record without its bytes.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, replace
from pathlib import Path

from buildstep.cache.remote import envelope, names, parts
from buildstep.cache.remote.backend import Backend
from buildstep.cache.remote.calls import Calls
from buildstep.cache.remote.interface import Output, Record, Seed, TooSlow, Unusable, Wanted
from buildstep.cache.remote.known import Known
from buildstep.cache.remote.packs import Older, Plan, plan
from buildstep.cache.remote.parts import Part, Table
from buildstep.errors import StoreError
from buildstep.files.interface import Missing, Unlistable
from buildstep.system.digest import sha256_bytes, sha256_file
from buildstep.trust import dsse

Counting = Callable[[bytes, str, Wanted], Record]
"""Returns the record of an envelope if it counts. Raises Unusable."""

_UPLOADS = 4
"""Blobs that are on their way at once: each is a pack in memory."""
_SAMPLE = 4
"""Blobs, of those that were seen a while ago, that are asked for again: a store may have been emptied."""
_MOST_MARKS = 10_000
"""Versions of a slot that are looked at."""
_MOST_PATCHED = 64 << 20
"""Bytes of older parts that are fetched to make patches from, where the older version is not here."""


@dataclass(frozen=True, slots=True)
class Upload:
    """Puts records into a store. until: a moment of the monotonic clock; seeds: files here that may be older
    versions of the outputs. doubted: whether bytes of this record came damaged, or not at all: then each blob
    of it is read, and replaced where it is not what it should be."""

    backend: Backend
    calls: Calls
    known: Known
    signers: Sequence[dsse.Signs]
    counting: Counting
    until: float
    seeds: Sequence[Seed]
    doubted: bool = False

    def put(self, record: Record, scope: str, files: Mapping[str, Path | bytes]) -> bool:
        """See `SharedStore.put`. Raises StoreError, OSError, ValueError."""
        facts = record.kind == "layer"
        before = self.latest(record, scope)
        plans = [self._plan(output, files.get(output.name), before, facts=facts) for output in record.outputs]
        outputs = tuple(each.output for each in plans)
        record = replace(record, outputs=outputs, made_at=record.made_at or time.time())
        if self.doubted:
            self.known.is_bad(name for each in plans for name in each.blobs)
        self._blobs(plans)
        if not self._record(record, scope):
            # What was said to be there is not: all of it is looked for again.
            self.known.forget(name for each in plans for name in each.blobs)
            self._blobs(plans)
            self._replace(record, scope)
        if record.slot:
            self.backend.write(names.slot_name(scope, record), b"")
        for each in plans:
            if each.table:
                self.known.keep_table(each.output.digest, each.table)
        return True

    # -- bytes -----------------------------------------------------------------------------------------

    def _plan(self, output: Output, data: Path | bytes | None, before: Record | None, *, facts: bool) -> Plan:
        if data is None:
            if not facts:
                raise ValueError(f"the output {output.name} has no file")
            return Plan(output)
        if isinstance(data, bytes):
            size, digest = len(data), sha256_bytes(data)
        else:
            size, digest = data.stat().st_size, sha256_file(data)
        if (size, digest) != (output.size, output.digest):
            raise ValueError(f"the file of the output {output.name} is not what its record says")
        if size <= envelope.INLINE:
            return Plan(replace(output, data=data if isinstance(data, bytes) else data.read_bytes()))
        if isinstance(data, bytes):
            return Plan(output, {names.blob_name(digest): lambda: data})
        return plan(output, data, self._older(before, output.name))

    def _blobs(self, plans: Iterable[Plan]) -> None:
        """Store the bytes that the store does not have. What was found damaged is stored again."""
        blobs = {name: make for each in plans for name, make in each.blobs.items()}
        self._mend(blobs)
        there = self._there(blobs)
        missing = [name for name in blobs if name not in there]
        running: list[tuple[str, Future[bool]]] = []
        for name in missing:
            if len(running) >= _UPLOADS:
                self._wait(*running.pop(0))
            running.append((name, self.calls.start(lambda name=name: self._write(name, blobs[name]))))  # type: ignore[misc]
        for item in running:
            self._wait(*item)

    def _there(self, blobs: Iterable[str]) -> set[str]:
        """Return those of some blobs that the store has. What was seen a while ago is not asked for, unless
        one of a few that are is gone: a store that lost one has lost more, as one that somebody emptied."""
        wanted = set(blobs)
        seen = wanted & self.known.seen.keys()
        sample = set(random.sample(sorted(seen), min(_SAMPLE, len(seen))))
        if not (asked := (wanted - seen) | sample):
            return seen
        there = self.backend.exists(asked)
        if lost := sample - there:
            self.known.forget(lost)
            if rest := seen - sample:
                there |= self.backend.exists(rest)
                self.known.forget(rest - there)
        else:
            there |= seen
        self.known.saw(there - seen)
        return there

    def _write(self, name: str, make: Callable[[], bytes | Path]) -> bool:
        self._check()
        return self.backend.write(name, make())

    def _wait(self, name: str, future: Future[bool]) -> None:
        try:
            future.result(max(0.0, self.until - time.monotonic()))
        except NotYet:
            future.cancel()
            self._check()
        self.known.saw([name])

    def _check(self) -> None:
        if time.monotonic() > self.until:
            raise TooSlow(f"the upload to {self.backend.url} took too long")

    def _mend(self, blobs: Mapping[str, Callable[[], bytes | Path]]) -> None:
        """Remove those of our blobs that were found damaged, and are so still."""
        for name in [name for name in blobs if name in self.known.bad]:
            with contextlib.suppress(Missing):
                make = blobs[name]()
                size = len(make) if isinstance(make, bytes) else make.stat().st_size
                if sha256_bytes(self.backend.range(name, 0, size + 1)) != names.digest_of(name):
                    self.backend.delete([name])
            self.known.forget([name])

    # -- the record ------------------------------------------------------------------------------------

    def _record(self, record: Record, scope: str) -> bool:
        """Write the record itself, unless there is one that counts. False: there is one whose bytes are gone.

        One that does not count was put there by somebody whom nobody believes who reads by our policy: it is
        taken away.
        """
        self._check()
        name = names.record_name(scope, record.wanted)
        if self.backend.write(name, envelope.dumps(record, scope, self.signers)):
            return True
        try:
            there = self.counting(self.backend.small(name, envelope.LARGEST), scope, record.wanted)
        except Unusable:
            self._replace(record, scope)
            return True
        return self._complete(there, record)

    def _replace(self, record: Record, scope: str) -> None:
        name = names.record_name(scope, record.wanted)
        self.backend.delete([name])
        self.backend.write(name, envelope.dumps(record, scope, self.signers))

    def _complete(self, there: Record, ours: Record) -> bool:
        """Tell whether the store has all bytes of a record. Ours are there already."""
        own = {output.digest for output in ours.outputs if not output.parts}
        wanted: list[str] = []
        for output in there.outputs:
            if output.data or there.kind == "layer" or not output.size or output.digest in own:
                continue
            if not output.parts:
                wanted.append(output.digest)
            else:
                table = self._table(output)
                if table is None:
                    return False
                wanted += [source.digest for source in table.sources]
        return self._are_sound(names.blob_name(digest) for digest in wanted)

    def _are_sound(self, blobs: Iterable[str]) -> bool:
        """Tell whether the store has all of these, and none was found damaged."""
        wanted = set(blobs)
        if wanted & self.known.bad.keys():
            return False
        return wanted <= self._there(wanted)

    # -- the older version -----------------------------------------------------------------------------

    def latest(self, record: Record, scope: str) -> Record | None:
        """Return the newest record of a slot, which is not this one; None if none is found."""
        if not record.slot:
            return None
        try:
            folder = names.slot_folder(scope, record.slot)
            rows = sorted(item.name for item in self.backend.list(folder, _MOST_MARKS))
        except (Unlistable, StoreError):
            return None
        for row in reversed(rows[-3:]):
            wanted = names.wanted_of(row)
            if wanted is None or wanted == record.wanted:
                continue
            with contextlib.suppress(Missing, Unusable):
                data = self.backend.small(names.record_name(scope, wanted), envelope.LARGEST)
                return self.counting(data, scope, wanted)
        return None

    def _table(self, output: Output) -> Table | None:
        data = self.known.table(output.digest)
        if sha256_bytes(data) != output.parts:
            try:
                data = self.backend.small(names.blob_name(output.parts), parts.LARGEST)
            except Missing:
                return None
        try:
            return parts.parse(data, output.size) if sha256_bytes(data) == output.parts else None
        except Unusable:
            return None

    def _older(self, before: Record | None, name: str) -> Older | None:
        """Return the older version of an output, if the store has all of it."""
        output = before.output(name) if before else None
        table = self._table(output) if output and output.parts else None
        if output is None or table is None:
            return None
        if not self._are_sound(names.blob_name(source.digest) for source in table.sources):
            return None
        read = self._from_seed(output, table) or self._from_store(table)
        return Older(digest=output.digest, table_digest=output.parts, table=table, read=read)

    def _from_seed(self, output: Output, table: Table) -> Callable[[int, int], bytes] | None:
        for seed in self.seeds:
            with contextlib.suppress(OSError):
                if seed.path.stat().st_size == output.size and _digest(seed) == output.digest:
                    return lambda first, count, path=seed.path: _bytes(
                        path, table.parts[first : first + count]
                    )  # type: ignore[misc]
        return None

    def _from_store(self, table: Table) -> Callable[[int, int], bytes]:
        left = [_MOST_PATCHED]

        def read(first: int, count: int) -> bytes:
            rows = table.parts[first : first + count]
            left[0] -= sum(part.length for part in rows)
            if left[0] < 0:
                raise Unusable("too much of the older version would be fetched")
            self._check()
            return b"".join(self._run(table, run) for run in _runs(rows))

        return read

    def _run(self, table: Table, run: Sequence[Part]) -> bytes:
        name = names.blob_name(table.sources[run[0].source].digest)
        return self.backend.range(name, run[0].offset, sum(part.length for part in run))


def _runs(rows: Sequence[Part]) -> list[list[Part]]:
    """Return parts in groups that lie one after another in one blob."""
    found: list[list[Part]] = []
    for part in rows:
        last = found[-1][-1] if found else None
        if last and last.source == part.source and last.offset + last.length == part.offset:
            found[-1].append(part)
        else:
            found.append([part])
    return found


def _digest(seed: Seed) -> str:
    return seed.digest or sha256_file(seed.path)


def _bytes(path: Path, rows: Sequence[Part]) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return os.pread(fd, sum(part.length for part in rows), rows[0].place) if rows else b""
    finally:
        os.close(fd)
