"""The files of one build: written under temporary names, made durable, and given their names together."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from buildstep.errors import EmitError
from buildstep.system.digest import Digests
from buildstep.system.files import CHUNK, fsync_dir, write_all
from buildstep.system.space import locating


def temporary_name(final: Path) -> Path:
    """Return a name beside the final one that no other build, and no other call in this one, uses."""
    return final.with_name(f".{final.name}.{os.getpid()}.{time.monotonic_ns()}.part")


def create(path: Path) -> int:
    """Create a file and return its descriptor. Raises EmitError, also if the name is taken."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o644)
    except OSError as error:
        raise EmitError(f"cannot create {path}: {error.strerror}") from error


def seal(fd: int) -> Digests:
    """Make a file durable and read it back: the digests are of what is really there."""
    with Sealer(fd) as sealer:
        return sealer.finish()


class Sealer:
    """Computes the digests of a file while it is still being written. A context manager: it waits for its
    threads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._final = 0
        self._over = False
        self._news = threading.Condition()
        self._pool = ThreadPoolExecutor(3, thread_name_prefix="seal")
        self._digests = [self._pool.submit(self._follow, name) for name in ("sha1", "sha256")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._tell(self._final, over=True)
        self._pool.shutdown()

    def advance(self, final: int) -> None:
        """The first `final` bytes will not change any more."""
        self._tell(final, over=False)

    def finish(self) -> Digests:
        """The file is complete: make it durable, and wait for what it holds. Raises OSError."""
        size = os.fstat(self._fd).st_size
        synced = self._pool.submit(os.fsync, self._fd)
        self._tell(size, over=True)
        sha1, sha256 = (digest.result() for digest in self._digests)
        with locating(self._fd):  # where blocks are only given out when they are written
            synced.result()
        return Digests(size, sha1, sha256)

    def _tell(self, final: int, *, over: bool) -> None:
        with self._news:
            self._final, self._over = final, over
            self._news.notify_all()

    def _follow(self, name: str) -> str:
        state, offset = hashlib.new(name), 0
        while True:
            with self._news:
                while self._final <= offset and not self._over:
                    self._news.wait()
                final, over = self._final, self._over
            while offset < final and (chunk := os.pread(self._fd, min(CHUNK, final - offset), offset)):
                state.update(chunk)
                offset += len(chunk)
            if over:
                return state.hexdigest()


class Outputs:
    """Finished files that wait for `commit`. Leaving the block without it removes them all.

    The caller holds a lock for the image's name, so that two builds do not commit to one name at once.
    """

    def __init__(self) -> None:
        self._files: list[tuple[Path, Path]] = []
        self._retired: list[Path] = []
        self._actions: list[Callable[[], None]] = []
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()

    @property
    def paths(self) -> list[Path]:
        """The final names, in the order in which they will appear."""
        return [final for _, final in self._files]

    def add(self, temporary: Path, final: Path) -> None:
        """Take charge of a finished, durable file."""
        self._files.append((temporary, final))

    def write(self, final: Path, content: bytes) -> None:
        """Add a small file, such as the build record; the manifest is the last one to add."""
        temporary = temporary_name(final)
        fd = create(temporary)
        self.add(temporary, final)
        try:
            write_all(fd, content)
            os.fsync(fd)
        except OSError as error:
            raise EmitError(f"cannot write {final}: {error.strerror}") from error
        finally:
            os.close(fd)

    def retire(self, path: Path) -> None:
        """Let a file of an earlier build go by `commit`: it is not of the image of that name any more."""
        self._retired.append(path)

    def at_commit(self, action: Callable[[], None], held: contextlib.ExitStack) -> None:
        """Call `action` when all files have their names; if it raises, they lose them again. held: what it
        needs until then, closed with the block."""
        self._actions.append(action)
        self._held.push(held)

    def discard(self) -> None:
        """Remove what has not been committed."""
        for temporary, _ in self._files:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        self._files.clear()
        self._actions.clear()
        self._held.close()

    def commit(self) -> None:
        """Give all files their names, the last added last. Raises EmitError, and then nothing changed.

        Files of an earlier build are first moved aside, the last one (its manifest) before the others:
        at no moment does a manifest stand beside an image that it does not describe.
        """
        aside: list[tuple[Path, Path]] = []
        done: list[tuple[Path, Path]] = []
        new = [final for _, final in self._files]
        try:
            for final in [*reversed(new), *(path for path in self._retired if path not in new)]:
                if final.is_dir() and not final.is_symlink():
                    raise EmitError(f"cannot write {final}: a directory has this name")
                old = temporary_name(final)
                with contextlib.suppress(FileNotFoundError):
                    final.rename(old)
                    aside.append((old, final))
            for temporary, final in self._files:
                temporary.rename(final)
                done.append((temporary, final))
            for directory in {final.parent for _, final in self._files}:
                fsync_dir(directory)
            for action in self._actions:
                action()
        except BaseException as error:
            for temporary, final in reversed(done):
                final.rename(temporary)
            for old, final in reversed(aside):
                old.rename(final)
            if isinstance(error, OSError):
                raise EmitError(f"cannot give the image's files their names: {error.strerror}") from error
            raise
        self._files.clear()
        self._actions.clear()
        for old, _ in aside:
            with contextlib.suppress(OSError):
                old.unlink()
