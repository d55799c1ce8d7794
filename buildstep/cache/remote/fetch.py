"""Fetch an output: what older files here have of it, patches, and ranges of blobs, several at once.

Every part is verified when it comes, and the whole file before anybody sees it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from buildstep.cache.remote import names, parts, patches
from buildstep.cache.remote.backend import Backend
from buildstep.cache.remote.calls import Calls
from buildstep.cache.remote.interface import Gone, Output, Seed, Stopped, TooSlow, Unusable
from buildstep.cache.remote.known import Known
from buildstep.cache.remote.parts import Frame, Part, Table
from buildstep.errors import StoreError
from buildstep.files.interface import Missing
from buildstep.system.digest import sha256_file

_LARGEST_PIECE, _CALLS = 8 << 20, 20
PIECE = 2 << 20
"""Bytes of a range: a store answers such a call in one go, and eight of them are no memory to speak of."""
_BRIDGE = 32 << 10
"""Bytes that are fetched for nothing rather than with another call."""
_TICK = 0.05
_TRIES = 2


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a blob to fetch. goes: where they belong: place in them, length, place in the output, and the
    digest that they must have, None where only the whole output has one."""

    blob: str
    offset: int
    size: int
    goes: tuple[tuple[int, int, int, bytes | None], ...]


@dataclass(slots=True)
class Limits:
    """When a fetch is given up: at a moment of the monotonic clock, or as soon as nobody wants it. progress:
    is told of the bytes that came."""

    until: float = float("inf")
    stopped: threading.Event = field(default_factory=threading.Event)
    progress: Callable[[int], None] = lambda _count: None

    def check(self, what: str) -> None:
        """Raises Stopped, TooSlow."""
        if self.stopped.is_set():
            raise Stopped(f"{what} is not wanted any more")
        if time.monotonic() > self.until:
            raise TooSlow(f"{what} did not come in time")


class _File:
    """The file that is being written. No byte goes to it once it is closed, whichever threads still run."""

    def __init__(self, path: Path) -> None:
        self._guard = threading.Lock()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def put(self, data: bytes | memoryview, offset: int) -> None:
        with self._guard:
            if self._fd < 0:
                raise Stopped("the file is closed")
            view = memoryview(data)
            while view:
                done = os.pwrite(self._fd, view, offset)
                view, offset = view[done:], offset + done

    def sha256(self, size: int) -> str:
        """Return the digest of the file, which must have this size; empty if it has another."""
        if os.fstat(self._fd).st_size != size:
            return ""
        state, at = hashlib.sha256(), 0
        while data := os.pread(self._fd, PIECE, at):
            state.update(data)
            at += len(data)
        return state.hexdigest()

    def close(self) -> None:
        with self._guard:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


class Fetch:
    """One output on its way into a file."""

    def __init__(
        self,
        backend: Backend,
        calls: Calls,
        known: Known,
        output: Output,
        seeds: Sequence[Seed],
        limits: Limits,
    ) -> None:
        self._backend = backend
        self._calls = calls
        self._known = known
        self._output = output
        self._seeds = seeds
        self._limits = limits
        self._what = f"{output.name} of {backend.url}"
        self._used: list[str] = []
        self.notes: list[str] = []
        """What was wrong, and did no harm."""

    def to(self, target: Path) -> Sequence[str]:
        """Write a new file, and return the blobs that were used for it. Raises Gone, Unusable, TooSlow,
        Stopped, StoreError, OSError; then there is no file."""
        output = self._output
        file = _File(target)
        try:
            if output.data or not output.size:
                file.put(output.data, 0)
            elif output.parts:
                self._assemble(file, self.table(output.parts, output.size))
            else:
                self._run(self._plain(), file)
            if file.sha256(output.size) != output.digest:
                raise self._damaged(names.blob_name(output.digest))
        except BaseException:
            file.close()
            target.unlink(missing_ok=True)
            raise
        file.close()
        return self._used

    def _damaged(self, name: str) -> Unusable:
        self._known.is_bad([name])
        return Unusable(
            f"{self._what} is not what its record says: {name} is damaged",
            hint="it is made anew here, and the next upload replaces it",
        )

    def _gone(self, error: Missing) -> Gone:
        self._known.forget(self._used)
        return Gone(f"{self._what} is gone: {error.message}")

    def table(self, digest: str, size: int) -> Table:
        """Return a table of parts by its digest. size: of the output. Raises Gone, Unusable, StoreError."""
        name = names.blob_name(digest)
        self._used.append(name)
        data = self._known.table(self._output.digest)
        if hashlib.sha256(data).hexdigest() != digest:
            try:
                data = self._backend.small(name, parts.LARGEST)
            except Missing as error:
                raise self._gone(error) from error
            if hashlib.sha256(data).hexdigest() != digest:
                raise self._damaged(name)
            self._known.keep_table(self._output.digest, data)
        return parts.parse(data, size)

    # -- from parts ------------------------------------------------------------------------------------

    def _assemble(self, file: _File, table: Table) -> None:
        self._used += [names.blob_name(source.digest) for source in table.sources]
        missing = [True] * len(table.parts)
        with contextlib.ExitStack() as stack:
            seeds = []
            for seed in self._seeds:
                with contextlib.suppress(OSError, StoreError):
                    seeds.append(_OpenSeed(stack, seed, self._known, table, self._backend))
            for opened in seeds:
                self._limits.check(self._what)
                self._copy(opened, table, missing, file)
            if table.patch and any(missing):
                for opened in seeds:
                    if table.before and opened.digest == table.before[0]:
                        self._patch(opened, table, missing, file)
        self._run(_ranges(table, missing), file)

    def _copy(self, seed: _OpenSeed, table: Table, missing: list[bool], file: _File) -> None:
        """Take parts from a file here, where it has them and they are sound."""
        for number, part in enumerate(table.parts):
            if missing[number] and (data := seed.part(part)) is not None:
                file.put(data, part.place)
                missing[number] = False

    def _patch(self, seed: _OpenSeed, table: Table, missing: list[bool], file: _File) -> None:
        """Make parts of the older version here; where that does not do, they are fetched like others."""
        if patches.codec_of(table) is None or table.patch is None:
            return
        name = names.blob_name(table.patch.digest)
        try:
            self._apply(name, seed, table, missing, file)
        except Missing:
            return
        except Unusable as error:
            self._known.is_bad([name])
            self.notes.append(f"{self._what}: {name} is damaged: {error.message}")

    def _apply(self, name: str, seed: _OpenSeed, table: Table, missing: list[bool], file: _File) -> None:
        frames = [
            frame
            for frame in table.frames
            if sum(table.parts[n].length for n in _parts_of(frame) if missing[n]) > frame.length
        ]
        for frame, patch in self._frames(name, frames):
            made = patches.apply(table, frame, patch, seed.parts, seed.read(frame.old_first, frame.old_count))
            for number, data in zip(_parts_of(frame), made, strict=True):
                if data is not None:
                    file.put(data, table.parts[number].place)
                    missing[number] = False
        self._used.append(name)

    def _frames(self, name: str, frames: Sequence[Frame]) -> Iterator[tuple[Frame, bytes]]:
        """Yield frames with their bytes; those that lie together come with one call."""
        groups: list[list[Frame]] = []
        for frame in sorted(frames, key=lambda frame: frame.offset):
            begin = groups[-1][0].offset if groups else 0
            if groups and frame.offset + frame.length - begin <= _LARGEST_PIECE:
                groups[-1].append(frame)
            else:
                groups.append([frame])
        sizes = [group[-1].offset + group[-1].length - group[0].offset for group in groups]
        coming = [
            self._calls.start(functools.partial(self._backend.range, name, group[0].offset, size))
            for group, size in zip(groups, sizes, strict=True)
        ]
        for group, future in zip(groups, coming, strict=True):
            data = self._await(future)
            self._limits.progress(len(data))
            for frame in group:
                at = frame.offset - group[0].offset
                yield frame, data[at : at + frame.length]

    def _await(self, future: Future[bytes]) -> bytes:
        while True:
            self._limits.check(self._what)
            if wait([future], timeout=_TICK).done:
                return future.result()

    # -- from blobs ------------------------------------------------------------------------------------

    def _plain(self) -> Iterator[Piece]:
        """Yield the ranges of an output that is one blob."""
        blob, total = names.blob_name(self._output.digest), self._output.size
        self._used.append(blob)
        step = _piece_of(total)
        for at in range(0, total, step):
            size = min(step, total - at)
            yield Piece(blob, at, size, ((0, size, at, None),))

    def _run(self, pieces: Iterator[Piece], file: _File) -> None:
        """Fetch pieces into a file, as many at a time as there are connections."""
        begun, came = time.monotonic(), 0
        running: set[Future[int]] = set()
        try:
            running = {self._calls.start(lambda piece=piece: self._one(piece, file)) for piece in pieces}  # type: ignore[misc]
            while running:
                self._limits.check(self._what)
                done, running = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
                for future in done:
                    count = future.result()
                    came += count
                    self._limits.progress(count)
        except Missing as error:
            raise self._gone(error) from error
        finally:
            for future in running:
                future.cancel()
            if came:
                self._backend.moved(came, time.monotonic() - begun)

    def _one(self, piece: Piece, file: _File) -> int:
        for left in reversed(range(_TRIES)):
            self._limits.check(self._what)
            try:
                data = self._backend.range(piece.blob, piece.offset, piece.size)
                break
            except StoreError as error:
                if not (error.retryable and left):
                    raise
        if len(data) != piece.size:
            raise self._damaged(piece.blob)
        view = memoryview(data)
        for at, length, place, digest in piece.goes:
            part = view[at : at + length]
            if digest is not None and hashlib.sha256(part).digest() != digest:
                raise self._damaged(piece.blob)
            file.put(part, place)
        return len(data)


def _piece_of(total: int) -> int:
    """Return how many bytes to ask for at a time: more where there is a lot to fetch, as each call costs."""
    return min(_LARGEST_PIECE, max(PIECE, total // _CALLS))


def _parts_of(frame: Frame) -> range:
    return range(frame.first, frame.first + frame.many)


def _ranges(table: Table, missing: Sequence[bool]) -> Iterator[Piece]:
    """Yield the ranges that the missing parts lie in, in the order of the blobs."""
    wanted = sorted(
        (part for part, is_missing in zip(table.parts, missing, strict=True) if is_missing),
        key=lambda part: (part.source, part.offset),
    )
    group: list[Part] = []
    most = _piece_of(sum(part.length for part in wanted))
    for part in wanted:
        if group:
            begin, last = group[0], group[-1]
            far = part.source != begin.source or part.offset > last.offset + last.length + _BRIDGE
            if far or part.offset + part.length - begin.offset > most:
                yield _piece(table, group)
                group = []
        group.append(part)
    if group:
        yield _piece(table, group)


def _piece(table: Table, group: Sequence[Part]) -> Piece:
    begin = group[0].offset
    end = max(part.offset + part.length for part in group)
    goes = tuple((part.offset - begin, part.length, part.place, part.digest) for part in group)
    return Piece(names.blob_name(table.sources[group[0].source].digest), begin, end - begin, goes)


class _OpenSeed:
    """A file here whose parts are known. Raises OSError, StoreError where it is of no use."""

    def __init__(
        self, stack: contextlib.ExitStack, seed: Seed, known: Known, table: Table, backend: Backend
    ) -> None:
        stream = stack.enter_context(seed.path.open("rb"))
        self._fd = stream.fileno()
        size = os.fstat(self._fd).st_size
        self.digest = seed.digest or sha256_file(seed.path)
        data = known.table(self.digest)
        if not data and table.before and table.before[0] == self.digest:
            data = backend.small(names.blob_name(table.before[1]), parts.LARGEST)
            if hashlib.sha256(data).hexdigest() == table.before[1]:
                known.keep_table(self.digest, data)
        self.parts = parts.parse(data, size).parts
        self._places = {part.digest: part for part in self.parts}

    def part(self, wanted: Part) -> bytes | None:
        """Return a part of an output if this file has it."""
        there = self._places.get(wanted.digest)
        if there is None or there.length != wanted.length:
            return None
        data = os.pread(self._fd, there.length, there.place)
        return data if hashlib.sha256(data).digest() == wanted.digest else None

    def read(self, first: int, count: int) -> bytes:
        """Return the packed bytes of parts in a row."""
        rows = self.parts[first : first + count]
        return os.pread(self._fd, sum(part.length for part in rows), rows[0].place) if rows else b""
