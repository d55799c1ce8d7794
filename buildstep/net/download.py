"""Download a file so that it can be trusted: resumed where that is possible, every byte verified.

While it comes it is TARGET.partial; only a file whose size and digests are right is renamed to TARGET.
A partial file is kept for the next run when the digest of the whole is known beforehand, as then a
wrong piece in it cannot pass; without one there would be nothing to tell whether the pieces fit.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from buildstep.net.errors import HttpError, Sign, safe_url
from buildstep.net.http import Http
from buildstep.system.digest import Digester, Expected, digests_of
from buildstep.system.files import CHUNK, fsync_dir
from buildstep.system.locks import lock

_PROGRESS = 1 << 20
"""A resumed attempt that brought this much does not count against the bound on attempts."""

_MOST_ATTEMPTS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Downloaded:
    """A file that is here and proved. fetched: bytes that came over the network for it, in this call."""

    path: Path
    size: int
    sha1: str
    sha256: str
    fetched: int = 0


class Progress:
    """How far a download is, for a reader that does not wait for its end (`follow`)."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._path: Path | None = None
        self._available = 0
        self._finished = False
        self._error: BaseException | None = None

    def at(self, path: Path, available: int) -> None:
        with self._changed:
            self._path, self._available = path, available
            self._changed.notify_all()

    def finish(self, path: Path, size: int) -> None:
        with self._changed:
            self._path, self._available, self._finished = path, size, True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def wait(self, beyond: int) -> tuple[Path, int, bool]:
        """Until there is more than so many bytes, or all. Raises what the download failed with."""
        with self._changed:
            while self._error is None and not self._finished and self._available <= beyond:
                self._changed.wait()
            if self._error is not None:
                raise self._error
            assert self._path is not None
            return self._path, self._available, self._finished


class Follower:
    """A file that is still being downloaded, as a stream. Its bytes are proved only by `prove`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._position = 0
        self._file: IO[bytes] | None = None
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to so many bytes, as soon as there are any; empty at the end."""
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
            time.sleep(0.05)  # begun anew at this moment
        self._position += len(data)
        self._sha256.update(data)
        return data

    def prove(self, done: Downloaded) -> None:
        """Read what is left, and compare all that was read with what was verified."""
        while self.read(CHUNK):
            pass
        # A restarted download may have had wrong bytes when we read them, and right ones in the end.
        if self._sha256.hexdigest() != done.sha256:
            raise HttpError(f"{done.path.name} changed while it was read", retryable=True)

    def interrupt(self) -> None:
        """Make a `read` in another thread, and all later ones, fail instead of waiting for more."""
        self._progress.fail(HttpError("stopped, as something else failed"))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def verify_file(path: Path, expected: Expected) -> Downloaded | None:
    """Return the file with its digests if it is as expected, else None."""
    try:
        if expected.size is not None and path.stat().st_size != expected.size:
            return None
        real = digests_of(path)
    except OSError:
        return None
    return None if expected.mismatches(real) else Downloaded(path=path, **asdict(real))


def download(
    http: Http,
    url: str,
    target: Path,
    *,
    expected: Expected,
    headers: Mapping[str, str] | None = None,
    sign: Sign | None = None,
    params: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    received: Callable[[int], None] | None = None,
    durable: bool = True,
) -> Downloaded:
    """Bring a file here and prove it. Raises HttpError; then nothing is under the target's name.

    A file that is there already and is as expected is not fetched again. Of several processes that want
    the same target one downloads, and the others wait for it. received: told the bytes of each piece.
    durable: false for a file that is only used to make something else, and proved anew by the next run.
    """
    job = _Job(
        http=http,
        url=url,
        target=target,
        expected=expected,
        headers=dict(headers or {}),
        sign=sign,
        params=params,
        progress=progress,
        received=received,
        durable=durable,
    )
    try:
        with lock(target.with_name(f".{target.name}.lock")):
            done = job.run()
            if progress is not None:
                progress.finish(done.path, done.size)
            return done
    except BaseException as error:
        if progress is not None:
            progress.fail(error)
        raise


@dataclass(kw_only=True)
class _Job:
    """One download. The file under work is opened anew by each attempt."""

    http: Http
    url: str
    target: Path
    expected: Expected
    headers: dict[str, str]
    sign: Sign | None
    params: Mapping[str, str] | None
    progress: Progress | None
    received: Callable[[int], None] | None
    durable: bool
    fetched: int = 0
    resumed: bool = False
    can_resume: bool = False
    md5: str = ""

    @property
    def partial(self) -> Path:
        return self.target.with_name(f"{self.target.name}.partial")

    def run(self) -> Downloaded:
        if self.expected.provable and self.target.exists():
            there = verify_file(self.target, self.expected)
            if there is not None:
                return there
        self.target.unlink(missing_ok=True)
        if not self.expected.provable:
            self.partial.unlink(missing_ok=True)
        self._check_space()
        attempt = total = 0
        while True:
            attempt, total = attempt + 1, total + 1
            before = self.fetched
            try:
                return self._attempt()
            except HttpError as error:
                if self.http.stopped.is_set():
                    self._forget()
                    raise
                wrong_pieces = self.resumed and not error.retryable and error.status in (0, 206, 416)
                if wrong_pieces:
                    # What an earlier run left was no good, or the server's idea of a range: from the start.
                    self.partial.unlink(missing_ok=True)
                elif not error.retryable:
                    self._forget()
                    raise
                if self.can_resume and self.fetched - before >= _PROGRESS:
                    attempt = 0
                if attempt >= self.http.options.attempts or total >= _MOST_ATTEMPTS:
                    self._forget()
                    raise
                self.http.pause(attempt + 1, error)

    def _forget(self) -> None:
        """Remove what the next run cannot use."""
        if not (self.can_resume and self.expected.provable):
            self.partial.unlink(missing_ok=True)

    def _check_space(self) -> None:
        if self.expected.size is None:
            return
        room = os.statvfs(self.target.parent)
        free = room.f_bavail * room.f_frsize
        there = self.partial.stat().st_size if self.partial.exists() else 0
        if self.expected.size - there > free:
            raise HttpError(
                f"{self.target.name} has {self.expected.size} bytes, "
                f"and {self.target.parent} has room for {free}",
                hint="free some space, or keep the pool elsewhere (BUILDSTEP_POOL)",
            )

    def _attempt(self) -> Downloaded:
        digester = self._digester()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self.partial, flags, 0o644), "r+b") as file:
            while chunk := file.read(CHUNK):
                digester.update(chunk)
            have = digester.size
            complete = self.expected.size is not None and have == self.expected.size
            if self.expected.size is not None and have > self.expected.size:
                have = 0
            self.resumed = have > 0
            if not complete:
                with self._pieces(have) as (start, pieces):
                    if start == 0:
                        self.resumed = False
                        file.seek(0)
                        file.truncate()
                        digester = self._digester()
                    have = start
                    self._tell(have)
                    for piece in pieces:
                        have += len(piece)
                        if self.expected.size is not None and have > self.expected.size:
                            raise self._wrong(f"is longer than the {self.expected.size} bytes it should have")
                        file.write(piece)
                        digester.update(piece)
                        self.fetched += len(piece)
                        if self.received is not None:
                            self.received(len(piece))
                        if self.progress is not None:
                            file.flush()
                            self._tell(have)
            file.flush()
            if self.durable:
                os.fsync(file.fileno())
        self._compare(digester)
        self.partial.replace(self.target)
        if self.durable:
            fsync_dir(self.target.parent)
        return Downloaded(path=self.target, **asdict(digester.result()), fetched=self.fetched)

    def _digester(self) -> Digester:
        """SHA-1 and SHA-256; MD5, which servers tell, only where nothing better is known."""
        return Digester() if self.expected.provable else Digester("sha1", "sha256", "md5")

    def _tell(self, have: int) -> None:
        if self.progress is not None:
            self.progress.at(self.partial, have)

    def _compare(self, digester: Digester) -> None:
        """Raise HttpError when the whole file is not what it has to be."""
        size, wanted = digester.size, self.expected.size
        if wanted is not None and size != wanted:
            raise self._wrong(f"has {size} bytes, not {wanted}", retryable=size < wanted)
        for mismatch in self.expected.mismatches(digester.result()):
            raise self._wrong(f"has the {mismatch}")
        md5 = base64.b64encode(digester.digest("md5")).decode()
        if md5 and not self.resumed and self.md5 and md5 != self.md5:
            raise self._wrong(f"has the MD5 {md5}, not {self.md5} as its server says")

    def _wrong(self, how: str, *, retryable: bool = False) -> HttpError:
        return HttpError(
            f"{self.target.name} from {safe_url(self.url)} {how}",
            hint="it was not kept; is there a cache or proxy on the way that damages it?",
            retryable=retryable,
        )

    @contextlib.contextmanager
    def _pieces(self, have: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The body from where it starts: at `have` if the server resumes, else at 0."""
        head = dict(self.headers) | dict(self.sign() if self.sign else {})
        ok = {200}
        if have:
            head["Range"] = f"bytes={have}-"
            ok = {200, 206}
        with self.http.stream("GET", self.url, headers=head, params=self.params, ok=ok) as reply:
            size = self.expected.size
            length = reply.headers.get("content-length", "")
            start = 0
            # Some servers send the range that was asked for, and say so, but with a 200.
            if reply.status == 206 or (have and "content-range" in reply.headers):
                found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", reply.headers.get("content-range", ""))
                if (
                    found is None
                    or int(found[1]) != have
                    or (size is not None and found[3] not in ("*", str(size)))
                ):
                    raise HttpError(
                        f"{safe_url(self.url)} answered another range than was asked for", status=206
                    )
                start = have
                self.can_resume = True
            elif size is not None and length.isdigit() and int(length) != size:
                raise self._wrong(f"would have {length} bytes, not {size}")
            else:
                self.can_resume = reply.headers.get("accept-ranges", "").lower() == "bytes"
            self.md5 = reply.headers.get("content-md5", "")
            yield start, reply.chunks()
