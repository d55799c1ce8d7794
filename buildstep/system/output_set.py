"""The files of one build: written under temporary names, made durable, and given their names together.

An image can be a directory too. It takes the place of an older one in one step where the system can
(renameat2(2)), so that it is there whole at any moment; what is left of the old one is removed afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from buildstep.errors import DatasetError, EmitError
from buildstep.system.beneath import exchange
from buildstep.system.digest import Digests
from buildstep.system.files import CHUNK, fsync_dir, write_all
from buildstep.system.remove import remove_tree
from buildstep.system.space import locating

_AT_FDCWD = -100  # linux/fcntl.h: a path is from the working directory


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


def seal(fd: int, *, sha1: bool = True, sha256: str = "") -> Digests:
    """Make a file durable, and read it back for digests that are not known. See `Sealer`."""
    with Sealer(fd, sha1=sha1, sha256=sha256) as sealer:
        return sealer.finish()


class Sealer:
    """Computes the digests of a file while it is still being written. A context manager: it waits for its
    threads.

    sha1: whether anybody needs that one too; it is empty otherwise. sha256: where whoever writes the file
    knows it already.
    """

    def __init__(self, fd: int, *, sha1: bool = True, sha256: str = "") -> None:
        self._fd = fd
        self._final = 0
        self._over = False
        self._news = threading.Condition()
        self._pool = ThreadPoolExecutor(3, thread_name_prefix="seal")
        names = ["sha1"] * sha1 + ["sha256"] * (not sha256)
        self._known = {"sha1": "", "sha256": sha256}
        self._digests = {name: self._pool.submit(self._follow, name) for name in names}

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
        found = self._known | {name: digest.result() for name, digest in self._digests.items()}
        with locating(self._fd):  # where blocks are only given out when they are written
            synced.result()
        return Digests(size, found["sha1"], found["sha256"])

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
        """Take charge of a finished, durable file, or of a directory of such files."""
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

    def place(self, final: Path) -> Path:
        """Return where a file is now: one that was added has its temporary name."""
        return next((temporary for temporary, name in self._files if name == final), final)

    def rewrite(self, final: Path, content: bytes) -> None:
        """Write a small file that was added before once more."""
        at = next(number for number, (_, name) in enumerate(self._files) if name == final)
        _drop(self._files[at][0])
        self.write(final, content)
        self._files[at] = self._files.pop()

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
            _drop(temporary)
        self._files.clear()
        self._actions.clear()
        self._held.close()

    def commit(self) -> None:
        """Give all files their names, the last added last. Raises EmitError, and then nothing changed.

        Files of an earlier build are first moved aside, the last one (its manifest) before the others:
        at no moment does a manifest stand beside an image that it does not describe. A directory stays until
        the new one takes its place.
        """
        undo: list[Callable[[], object]] = []
        old: list[Path] = []
        new = {final: temporary for temporary, final in self._files}
        try:
            for final in [*reversed(new), *(path for path in self._retired if path not in new)]:
                if _is_directory(final):
                    if final in new and _is_directory(new[final]):
                        continue
                    if final not in self._retired:
                        raise EmitError(f"cannot write {final}: a directory has this name")
                with contextlib.suppress(FileNotFoundError):
                    undo.append(_rename(final, temporary_name(final), old))
            for temporary, final in self._files:
                if _is_directory(final):
                    _replace_directory(temporary, final, old, undo)
                else:
                    undo.append(_rename(temporary, final))
            for directory in {final.parent for _, final in self._files}:
                fsync_dir(directory)
            for action in self._actions:
                action()
        except BaseException as error:
            for back in reversed(undo):
                back()
            if isinstance(error, OSError):
                raise EmitError(f"cannot give the image's files their names: {error.strerror}") from error
            raise
        self._files.clear()
        self._actions.clear()
        for path in old:
            _drop(path)


def _is_directory(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return stat.S_ISDIR(path.lstat().st_mode)
    return False


def _rename(source: Path, target: Path, old: list[Path] | None = None) -> Callable[[], object]:
    """Rename a file, and return what takes that back. old: gets what is to be removed at last."""
    source.rename(target)
    if old is not None:
        old.append(target)
    return lambda: target.rename(source)


def _replace_directory(
    temporary: Path, final: Path, old: list[Path], undo: list[Callable[[], object]]
) -> None:
    """Put a directory in the place of another, in one step where the system can.

    old: gets what is to be removed at last; undo: what takes it back.
    """
    try:
        _exchange(temporary, final)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        undo.append(_rename(final, temporary_name(final), old))
        undo.append(_rename(temporary, final))
    else:
        old.append(temporary)
        undo.append(lambda: _exchange(temporary, final))


def _exchange(one: Path, other: Path) -> None:
    exchange(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))


def _drop(path: Path) -> None:
    """Remove a file or a directory of ours. What stays has the name of what is half-written: the next build
    of the same outputs, or `heal`, removes it."""
    with contextlib.suppress(OSError, DatasetError):
        if _is_directory(path):
            remove_tree(path)
        else:
            path.unlink()
