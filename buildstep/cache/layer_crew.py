"""Many layers at once, each found by its content or made in a worker process; they come in order.

A worker reads, hashes and compresses a whole layer by itself, without threads, so that nothing is waited for
and what Python has to do for each file takes no other's time. Only where fewer layers than workers have to be
read, as when one large file changed, threads share it. The bytes are the same with any number of either.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

from buildstep.cache.content_layer import ContentLayer, Making, NewFiles, NewLayer
from buildstep.errors import EmitError
from buildstep.events import Bus, Event, Level, Note
from buildstep.system.crew import Crew
from buildstep.system.workers import WorkerLost
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry, FileList


class Wanted(NamedTuple):
    """A layer that is to be found or made, and what it is for people."""

    changes: Changes
    comment: str


class Result(NamedTuple):
    """What a worker did for a layer.

    name: of the layer in the store, empty where it was made; made: the new one. counts, notes: what it would
    have told the bus. digests, texts: of the entries of the changes: the SHA-256 of each file, in a row, and
    the canonical line of each.
    """

    name: str
    made: NewLayer | None
    counts: dict[str, int]
    notes: list[tuple[str, Level]]
    digests: bytes
    texts: bytes


class LayerCrew:
    """Workers that find or make layers, from now on. Use it as a context manager.

    tree: see `ContentLayer`; files: where new ones are written; count: of workers.
    """

    def __init__(
        self,
        making: Making,
        root: Path,
        wanted: Sequence[Wanted],
        tree: FileList,
        *,
        files: NewFiles,
        count: int,
    ) -> None:
        self._making = making
        self._root = root
        self._wanted = wanted
        self._tree = tree
        self._files = files
        self._crew = Crew(self._do, count)
        self._threads = _threads(wanted, count)
        self._read = mmap.mmap(-1, 8 * len(wanted))

    def __enter__(self) -> Self:
        self._crew.__enter__()
        for number in range(len(self._wanted)):
            self._crew.give(number)
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        self._crew.close()

    def results(self) -> Iterator[Result]:
        """Yield what became of each layer, in order. Raises EmitError."""
        try:
            for number, result in enumerate(self._crew.results()):
                struct.pack_into("=Q", self._read, 8 * number, 0)  # the counts have it from now on
                _take_over(self._wanted[number].changes.entries, result)
                yield result
        except WorkerLost as error:
            raise EmitError(
                f"{error.message} while it made a layer", hint=error.hint, retryable=True
            ) from error

    def read(self) -> int:
        """Return the bytes of files that were read so far, by all workers together."""
        return sum(struct.unpack(f"={len(self._wanted)}Q", self._read[:]))

    # -- in a worker

    def _do(self, number: int) -> Result:
        changes = self._wanted[number].changes
        notes: list[tuple[str, Level]] = []
        bus = Bus(lambda event: _note(event, notes))

        def told() -> None:
            struct.pack_into("=Q", self._read, 8 * number, bus.so_far("bytes_read"))

        begin = time.process_time()
        layer = ContentLayer(self._making, self._root, changes, self._tree)
        name = layer.look(bus)
        made = None
        if not name or self._making.fresh or not (self._making.folder / name).exists():
            made = layer.write(self._files, bus, workers=self._threads, told=told)
            # Of a processor: how long it took says little of a layer while others are made.
            made = replace(made, seconds=time.process_time() - begin)
        texts = b"".join([entry.text for entry in changes.entries])
        digests = bytes.fromhex("".join([entry.sha256 for entry in changes.entries if entry.kind == "f"]))
        for entry in layer.entries:  # it is not looked at again in this process
            entry.text, entry.sha256 = b"", ""
        return Result(name if made is None else "", made, bus.counts, notes, digests, texts)


def _threads(wanted: Sequence[Wanted], workers: int) -> int:
    """Return how many threads compress in each worker, 0 for none: see `ChunkWriter`."""
    unread = sum(
        any(entry.kind == "f" and not entry.sha256 and not entry.first for entry in changes.entries)
        for changes, _ in wanted
    )
    return workers if 0 < unread < workers else 0


def _note(event: Event, notes: list[tuple[str, Level]]) -> None:
    if isinstance(event, Note):
        notes.append((event.text, event.level))


def _take_over(entries: Sequence[Entry], result: Result) -> None:
    """Give the entries what a worker knows of them."""
    digests, at = result.digests.hex(), 0
    for entry, text in zip(entries, result.texts.splitlines(keepends=True), strict=True):
        entry.text = text
        if entry.kind == "f":
            entry.sha256, at = digests[at : at + 64], at + 64
