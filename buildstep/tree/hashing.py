"""SHA-256 of the files of a tree."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from buildstep.system.files import CHUNK, ZEROS
from buildstep.tree.entry import Entry, FileList


def open_content(root: bytes, entry: Entry) -> int:
    """Open a regular file's content and return the descriptor; a link under that name is refused."""
    path = entry.source or root + b"/" + entry.path
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def hash_entries(root: Path | bytes, entries: Iterable[Entry]) -> int:
    """Fill in the SHA-256 of files that have none; returns the bytes read."""
    top = os.fsencode(root)
    total = 0
    for entry in entries:
        if entry.kind != "f" or entry.sha256 or entry.first:
            continue
        digest = hashlib.sha256()
        with os.fdopen(open_content(top, entry), "rb", buffering=0) as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                total += len(chunk)
        entry.sha256 = digest.hexdigest()
    return total


def spread_digests(entries: FileList) -> None:
    """Give the later members of each hard-link group the digest of the first."""
    for entry in entries.values():
        if entry.first and entry.kind == "f":
            entry.sha256 = entries[entry.first].sha256


_AHEAD = 4
"""Chunks that may wait to be hashed."""
_THREADED = 4 * CHUNK
"""Files of this size or more are hashed in a thread, beside reading or writing."""


class ContentHash:
    """SHA-256 of a file that comes in pieces, in a thread of its own when that pays. size: the file's."""

    def __init__(self, size: int) -> None:
        self._state = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hash") if size >= _THREADED else None
        self._waiting: deque[Future[None]] = deque()
        self._cancelled = False
        self._holes = False

    @property
    def behind(self) -> bool:
        """Whether holes are still being hashed, so that `finish` had better be called later."""
        return self._holes

    def update(self, chunk: bytes) -> None:
        if self._pool is None:
            self._state.update(chunk)
            return
        self._waiting.append(self._pool.submit(self._state.update, chunk))
        if len(self._waiting) > _AHEAD:
            self._waiting.popleft().result()

    def zeros(self, count: int) -> None:
        if not count:
            return
        if self._pool is None:
            self._zeros(count)
        else:
            self._holes = True
            self._waiting.append(self._pool.submit(self._zeros, count))

    def _zeros(self, count: int) -> None:
        while count > 0 and not self._cancelled:
            self._state.update(ZEROS[:count] if count < CHUNK else ZEROS)
            count -= CHUNK

    def finish(self) -> str:
        if self._pool is not None:
            for future in self._waiting:
                future.result()
            self._pool.shutdown()
        return self._state.hexdigest()

    def cancel(self) -> None:
        self._cancelled = True
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
