"""Download a file so that it can be trusted: resumed where that is possible, every byte verified.

While it comes it is TARGET.partial; only a file whose size and digests are right is renamed to TARGET.
A partial file is kept for the next run: the digest of the complete file, which must be known beforehand,
shows whether the pieces fit.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from buildstep.events import Gauge
from buildstep.net.errors import HttpError, safe_url
from buildstep.net.http import Http
from buildstep.net.request import HttpRequest
from buildstep.system import space
from buildstep.system.digest import Digester, Expected, digests_of
from buildstep.system.files import CHUNK, fsync_dir
from buildstep.system.locks import lock

_PROGRESS = 1 << 20
"""A resumed attempt that brought this many bytes does not count against the limit of attempts."""

_MAX_ATTEMPTS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Downloaded:
    """A file that is here and verified. fetched: bytes that came over the network for it, in this call."""

    path: Path
    size: int
    sha1: str
    sha256: str
    fetched: int = 0


class Progress:
    """How far a download is, for a reader that does not wait for its end (`Follower`), and for a gauge."""

    def __init__(self, gauge: Gauge | None = None) -> None:
        self.gauge = gauge
        self._changed = threading.Condition()
        self._path: Path | None = None
        self._available = 0
        self._finished = False
        self._error: BaseException | None = None

    def at(self, path: Path, available: int, *, finished: bool = False) -> None:
        """Report the file as it is now, and how many of its bytes can be read."""
        with self._changed:
            if self.gauge is not None:
                self.gauge.advance(available - self._available, int(finished and not self._finished))
            self._path, self._available, self._finished = path, available, finished
            self._changed.notify_all()

    def finish(self, path: Path, size: int) -> None:
        """Report the complete file."""
        self.at(path, size, finished=True)

    def fail(self, error: BaseException) -> None:
        """Report that the download failed."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Report whatever ends the block as the download's failure: else a reader would wait for ever."""
        try:
            yield
        except BaseException as error:
            self.fail(error)
            raise

    def wait(self, position: int) -> tuple[Path, int, bool]:
        """Wait until there are bytes after a position, or the file is complete.

        Returns the file, its bytes so far and whether it is complete. Raises the download's error.
        """
        with self._changed:
            while self._error is None and not self._finished and self._available <= position:
                self._changed.wait()
            if self._error is not None:
                raise self._error
            assert self._path is not None
            return self._path, self._available, self._finished


class Follower:
    """A file that is still being downloaded, as a stream. Its bytes are verified only by `verify`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._position = 0
        self._file: IO[bytes] | None = None
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return up to so many bytes, as soon as there are any; empty at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        while True:
            path, available, finished = self._progress.wait(self._position)
            if self._file is None:
                # The name changes when the download is complete; the file that is open stays the same.
                with contextlib.suppress(FileNotFoundError):
                    self._file = path.open("rb")
            data = b""
            if self._file is not None and available > self._position:
                count = min(size, available - self._position)
                data = os.pread(self._file.fileno(), count, self._position)
            if data or finished:
                break
            time.sleep(0.05)  # the download starts again at this moment
        self._position += len(data)
        self._sha256.update(data)
        return data

    def verify(self, done: Downloaded) -> None:
        """Read what is left, and compare all that was read with the verified file. Raises HttpError."""
        while self.read(CHUNK):
            pass
        # A restarted download may have had wrong bytes when we read them, and right ones at the end.
        if self._sha256.hexdigest() != done.sha256:
            raise HttpError(f"{done.path.name} changed while it was read", retryable=True)

    def interrupt(self) -> None:
        """Make a `read` in another thread, and all later ones, fail instead of waiting for more."""
        self._progress.fail(HttpError("stopped, because something else failed"))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def verify_file(path: Path, expected: Expected) -> Downloaded | None:
    """Return the file with its digests if it is as expected, else None."""
    try:
        if path.stat().st_size != expected.size:
            return None
        real = digests_of(path)
    except OSError:
        return None
    return None if expected.mismatches(real) else Downloaded(path=path, **asdict(real))


def download(
    http: Http,
    request: HttpRequest,
    target: Path,
    *,
    expected: Expected,
    progress: Progress | None = None,
    durable: bool = True,
) -> Downloaded:
    """Download the file of a request and verify it. Raises HttpError, and DiskError where there is no room
    for it; then there is no target.

    A file that is there already and is as expected is not fetched again. Of several processes that want
    the same target one downloads, and the others wait for it. progress: gets every step.
    durable: false for a file that is only used to make something else, and verified again by the next run.
    """
    progress = progress or Progress()
    with progress.reporting(), lock(target.with_name(f".{target.name}.lock")):
        done = _Job(http, request, target, expected, progress, durable).run()
        progress.finish(done.path, done.size)
        return done


@dataclass
class _Job:
    """One download. Each attempt opens the partial file again."""

    http: Http
    request: HttpRequest
    target: Path
    expected: Expected
    progress: Progress
    durable: bool
    fetched: int = 0
    resumed: bool = False
    can_resume: bool = False

    @property
    def partial(self) -> Path:
        return self.target.with_name(f"{self.target.name}.partial")

    def run(self) -> Downloaded:
        if self.target.exists() and (there := verify_file(self.target, self.expected)):
            return there
        self.target.unlink(missing_ok=True)
        self._check_space()
        attempt = total = 0
        while True:
            attempt, total = attempt + 1, total + 1
            before = self.fetched
            try:
                return self._attempt()
            except HttpError as error:
                temporary = error.retryable
                if self.http.stopped.is_set():
                    temporary = False
                elif self.resumed and not error.retryable and error.status in (0, 206, 416):
                    # What an earlier run left was wrong, or the server's idea of a range: from the start.
                    self.partial.unlink(missing_ok=True)
                    temporary = True
                if self.can_resume and self.fetched - before >= _PROGRESS:
                    attempt = 0
                if not temporary or attempt >= self.http.options.attempts or total >= _MAX_ATTEMPTS:
                    if not self.can_resume:  # then the next run cannot use the pieces
                        self.partial.unlink(missing_ok=True)
                    raise
                self.http.pause(attempt + 1, error)

    def _check_space(self) -> None:
        there = self.partial.stat().st_size if self.partial.exists() else 0
        space.check(self.target, self.expected.size - there, what=f"cannot download {self.target.name}")

    def _attempt(self) -> Downloaded:
        size, digester = self.expected.size, Digester()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self.partial, flags, 0o644), "r+b") as file:
            while chunk := file.read(CHUNK):
                digester.update(chunk)
            have = digester.size
            self.resumed = 0 < have <= size
            if have != size:
                with self._open(have if self.resumed else 0) as (start, chunks):
                    if start == 0:
                        self.resumed = False
                        file.seek(0)
                        file.truncate()
                        digester = Digester()
                    self.progress.at(self.partial, start)
                    for chunk in chunks:
                        digester.update(chunk)
                        if digester.size > size:
                            raise self._wrong(f"is longer than the {size} bytes it should have")
                        file.write(chunk)
                        file.flush()
                        self.fetched += len(chunk)
                        self.progress.at(self.partial, digester.size)
            if self.durable:
                os.fsync(file.fileno())
        real = digester.result()
        for mismatch in self.expected.mismatches(real):
            raise self._wrong(f"has the {mismatch}", retryable=real.size < size)
        self.partial.replace(self.target)
        if self.durable:
            fsync_dir(self.target.parent)
        return Downloaded(path=self.target, **asdict(real), fetched=self.fetched)

    def _wrong(self, how: str, *, retryable: bool = False) -> HttpError:
        return HttpError(
            f"{self.target.name} from {safe_url(self.request.url)} {how}",
            hint="it was not kept; does a cache or proxy on the way damage it?",
            retryable=retryable,
        )

    @contextlib.contextmanager
    def _open(self, have: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Yield the position where the body starts, and the body: `have` if the server resumes, else 0."""
        request, size = self.request, self.expected.size
        if have:
            headers = {**request.headers, "Range": f"bytes={have}-"}
            request = replace(request, headers=headers, ok=frozenset({200, 206}))
        with self.http.stream(request) as stream:
            content_range = stream.headers.get("content-range", "")
            length = stream.headers.get("content-length", "")
            start = 0
            # Some servers send the range that was asked for, and say so, but with a 200.
            if stream.status == 206 or (have and content_range):
                if not re.fullmatch(rf"bytes {have}-\d+/({size}|\*)", content_range):
                    message = f"{safe_url(request.url)} sent another range than the requested one"
                    raise HttpError(message, status=206)
                start = have
                self.can_resume = True
            elif length.isdigit() and int(length) != size:
                raise self._wrong(f"would have {length} bytes, not {size}")
            else:
                self.can_resume = stream.headers.get("accept-ranges", "").lower() == "bytes"
            yield start, stream.chunks()
