"""Changes to an image's root that undo themselves: temporary files, and directories to mount on.

Nothing here follows a link that the image planted: parents are resolved inside the root, and what is
put in place is created anew, never written through.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from buildstep.errors import SandboxError
from buildstep.events import Bus
from buildstep.system.files import write_all
from buildstep.system.root import Root

SAVED_SUFFIX = ".buildstep-saved"
"""What follows a dot and the name of a file that is set aside while a temporary one has its place."""


# -- directories to mount on -----------------------------------------------------------------------------


def mount_point(root: Root, path: str) -> Path:
    """Return the host's path of a directory in the root. Raises SandboxError, also for a link (D16)."""
    found = root.lstat(path)
    real = root.real(path)
    if found is None or real is None:
        what = "it is not there" if found is None else "it is a symbolic link that leads nowhere"
        raise SandboxError(f"{path} in the image cannot be mounted on: {what}")
    if not stat.S_ISDIR(found.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a directory"
        raise SandboxError(
            f"{path} in the image cannot be mounted on: it is {what}",
            hint=f"make {path} a directory in the base image and in the proto directory",
        )
    return root.path / real.lstrip("/")


def claim(stack: ExitStack, root: Root, path: str) -> Path:
    """Return a directory to mount on, making it if missing; the stack removes what was made, while empty."""
    make_dirs(stack, root, path)
    return mount_point(root, path)


def make_dirs(stack: ExitStack, root: Root, path: str) -> None:
    """Make the missing directories of a path; the stack removes them, while empty. Raises SandboxError."""
    at = ""
    for part in filter(None, path.split("/")):
        at = f"{at}/{part}"
        if root.is_dir(at):
            continue
        try:
            with root.parent(at) as (fd, name):
                before = os.fstat(fd).st_mtime_ns
                os.mkdir(name, 0o755, dir_fd=fd)
                stack.callback(_remove_made, root, at, before, os.fstat(fd).st_mtime_ns)
                os.chmod(name, 0o755, dir_fd=fd)  # whatever our umask
        except OSError as error:
            mount_point(root, at)  # says more, where something else has the name
            raise SandboxError(f"cannot make {at} in the image: {error.strerror}") from error


def _remove_made(root: Root, path: str, before: int, after: int) -> None:
    """Remove a directory made by us. before, after: its parent's mtime around the making of it."""
    with (
        contextlib.suppress(FileNotFoundError, NotADirectoryError),
        root.parent(path) as (fd, name),
    ):
        then = os.fstat(fd)
        try:
            os.rmdir(name, dir_fd=fd)
        except OSError as error:
            # Somebody put files there, or something else in its place: it is theirs now.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            return
        if then.st_mtime_ns == after:
            os.utime(fd, ns=(then.st_atime_ns, before))


# -- files -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def temporary_file(root: Root, target: str, content: bytes, *, mode: int, bus: Bus) -> Iterator[None]:
    """Put a file at a path inside for the length of a block; what was there comes back.

    What was there waits beside it under a name of ours and comes back by rename: the same inode, or the same
    link. If a command in the image changed or removed our file meanwhile, that stays and the saved one is
    dropped. Raises SandboxError.
    """
    with ExitStack() as stack:
        make_dirs(stack, root, target.rstrip("/").rpartition("/")[0])
        # The directory stays open: the file is removed where it was put, wherever its path leads then.
        fd, name = stack.enter_context(root.parent(target))
        override = _Override(fd, name, target, content, bus)
        override.set_aside()
        stack.callback(override.restore)
        override.put(mode)
        yield


class _Override:
    """One temporary file, by the open directory that holds it."""

    def __init__(self, fd: int, name: str, target: str, content: bytes, bus: Bus) -> None:
        self._fd = fd
        self._name = name
        self._saved = f".{name}{SAVED_SUFFIX}"
        self._target = target
        self._content = content
        self._bus = bus
        self._had = False
        self._is_put = False
        self._before = os.fstat(fd).st_mtime_ns
        self._after = 0

    def set_aside(self) -> None:
        """Rename what is there. Raises SandboxError for a directory, or if something is set aside already."""
        found = self._lstat(self._name)
        if found is not None and stat.S_ISDIR(found.st_mode):
            raise SandboxError(
                f"{self._target} in the image is a directory, where a file has to go",
                hint="remove it from the base image or the proto directory",
            )
        if self._lstat(self._saved) is not None:
            raise SandboxError(
                f"{self._target} in the image is replaced already, or a dead build left {self._saved}",
                hint="start again from a fresh clone",
            )
        if found is not None:
            os.rename(self._name, self._saved, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            self._had = True

    def put(self, mode: int) -> None:
        """Create our file: never through a link, never over another file."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        out = os.open(self._name, flags, mode, dir_fd=self._fd)
        try:
            write_all(out, self._content)
            os.fchmod(out, mode)  # whatever our umask
        finally:
            os.close(out)
        self._is_put = True
        self._after = os.fstat(self._fd).st_mtime_ns

    def restore(self) -> None:
        """Put back what was there, if our file is still as it was put."""
        now = os.fstat(self._fd)
        if not self._is_put or self._is_ours():
            if self._had:
                os.rename(self._saved, self._name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            elif self._lstat(self._name) is not None:
                os.unlink(self._name, dir_fd=self._fd)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._saved, dir_fd=self._fd)
            self._bus.note(f"{self._target} was replaced by a command in the image; that stays")
        if now.st_mtime_ns == self._after:
            # Nobody else wrote to the directory: its time comes back too, so that it counts as unchanged.
            os.utime(self._fd, ns=(now.st_atime_ns, self._before))

    def _is_ours(self) -> bool:
        found = self._lstat(self._name)
        if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != len(self._content):
            return False
        fd = os.open(self._name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._fd)
        with os.fdopen(fd, "rb") as stream:
            return stream.read() == self._content

    def _lstat(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
