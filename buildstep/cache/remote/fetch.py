"""Fetch an output: in ranges, several at once, each piece written where it belongs, all of it verified."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from buildstep.cache.remote import names
from buildstep.cache.remote.backend import Backend
from buildstep.cache.remote.calls import Calls
from buildstep.cache.remote.interface import Gone, Output, Stopped, TooSlow, Unusable
from buildstep.errors import StoreError
from buildstep.files.interface import Missing

PIECE = 2 << 20
"""Bytes of a range: a store answers such a call in one go, and eight of them are no memory to speak of."""
_TICK = 0.05


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a blob, and where they belong in the output."""

    blob: str
    offset: int
    size: int
    target: int


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
        self.path = path
        self._guard = threading.Lock()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def put(self, data: bytes, offset: int) -> None:
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


def fetch(backend: Backend, calls: Calls, output: Output, target: Path, limits: Limits) -> None:
    """Write an output to a new file. Raises Gone, Unusable, TooSlow, Stopped, StoreError, OSError; then there
    is no file."""
    what = f"{output.name} of {backend.url}"
    file = _File(target)
    try:
        if output.data or not output.size:
            file.put(output.data, 0)
        else:
            _pieces(backend, calls, _plain(output), file, limits, what)
        if file.sha256(output.size) != output.digest:
            raise Unusable(
                f"{what} is not what its record says: {names.blob_name(output.digest)} is damaged",
                hint="it is made anew here; the next upload replaces it",
            )
    except BaseException:
        file.close()
        target.unlink(missing_ok=True)
        raise
    file.close()


def _plain(output: Output) -> list[Piece]:
    """Return the ranges of an output that is one blob."""
    blob = names.blob_name(output.digest)
    return [Piece(blob, at, min(PIECE, output.size - at), at) for at in range(0, output.size, PIECE)]


def _pieces(
    backend: Backend, calls: Calls, pieces: Sequence[Piece], file: _File, limits: Limits, what: str
) -> None:
    """Fetch pieces into a file, a few more at a time than there are connections."""

    def one(piece: Piece) -> int:
        limits.check(what)
        data = backend.range(piece.blob, piece.offset, piece.size)
        if len(data) != piece.size:
            raise Unusable(f"{piece.blob} of {backend.url} is shorter than its record says")
        file.put(data, piece.target)
        return len(data)

    begun, came = time.monotonic(), 0
    running: set[Future[int]] = set()
    try:
        running = {calls.start(lambda piece=piece: one(piece)) for piece in pieces}  # type: ignore[misc]
        while running:
            limits.check(what)
            done, running = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
            for future in done:
                count = future.result()
                came += count
                limits.progress(count)
    except Missing as error:
        raise Gone(f"{what} is gone: {error.message}") from error
    finally:
        for future in running:
            future.cancel()
        with contextlib.suppress(StoreError):
            backend.moved(came, time.monotonic() - begun)
