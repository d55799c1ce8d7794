"""Paths resolved inside a directory, whatever links it holds."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from buildstep.errors import SandboxError
from buildstep.system import host
from buildstep.system.beneath import IN_ROOT, NO_MAGICLINKS, openat2
from buildstep.system.files import write_all
from buildstep.system.remove import remove_at


class Root:
    """A directory seen as `/`: no path given to it, and no link found on the way, leads out of it.

    Linux resolves with openat2(2) RESOLVE_IN_ROOT; elsewhere the components are walked one by one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
        """A descriptor of a path inside; links are followed inside the root. Raises OSError."""
        if not host.HERE.openat2:
            from buildstep.system.resolve_path import open_inside

            return open_inside(self.path, path, flags, mode)
        fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        try:
            return openat2(fd, os.fsencode(path.lstrip("/") or "."), flags, mode, IN_ROOT | NO_MAGICLINKS)
        finally:
            os.close(fd)

    def real(self, path: str) -> str | None:
        """Where a path inside really is, as a path from the root without links; None if it is not."""
        if not host.HERE.openat2:
            from buildstep.system.resolve_path import real_inside

            return real_inside(self.path, path)
        try:
            fd = self.open(path, os.O_PATH)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise
        try:
            found = os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        top = os.path.realpath(self.path)
        inside = os.path.relpath(found, top)
        return "/" if inside == "." else f"/{inside}"

    def exists(self, path: str) -> bool:
        return self.real(path) is not None

    def is_dir(self, path: str) -> bool:
        if not host.HERE.openat2:
            found = self._stat(path)
            return found is not None and stat.S_ISDIR(found.st_mode)
        try:
            os.close(self.open(path, os.O_PATH | os.O_DIRECTORY))
        except OSError:
            return False
        return True

    def is_file(self, path: str) -> bool:
        """Whether this is a regular file, links followed."""
        found = self._stat(path)
        return found is not None and stat.S_ISREG(found.st_mode)

    def is_program(self, path: str) -> bool:
        """Whether this is a regular file that somebody may execute."""
        found = self._stat(path)
        mode = 0 if found is None else found.st_mode
        return stat.S_ISREG(mode) and bool(mode & 0o111)

    def _stat(self, path: str) -> os.stat_result | None:
        """What is at a path, links followed; None if nothing can be reached there."""
        if not host.HERE.openat2:
            from buildstep.system.resolve_path import stat_inside

            found = stat_inside(self.path, path)
            return None if found is None else found[1]
        try:
            fd = self.open(path, os.O_PATH)
        except OSError:
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def read(self, path: str) -> bytes:
        """A whole file. A device or a pipe planted under the name is refused, never waited for."""
        fd = self.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as stream:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SandboxError(f"{path} in the image is not a regular file")
            return stream.read()

    def lstat(self, path: str) -> os.stat_result | None:
        """What is at a path, a link itself and not its target; None if nothing is."""
        try:
            with self.parent(path) as (fd, name):
                return os.stat(name, dir_fd=fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def host_path(self, path: str) -> Path | None:
        """The path on the agent of something inside, with every link resolved inside the root."""
        found = self.real(path)
        return None if found is None else self.path / found.lstrip("/")

    @contextlib.contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The open directory that holds a path, and its last name: what every change starts from."""
        head, _, name = path.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            raise SandboxError(f"{path!r} does not name an entry")
        fd = self.open(head or "/", os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd, name
        finally:
            os.close(fd)

    def make_dirs(self, path: str, mode: int = 0o755) -> list[str]:
        """Make a directory and its parents; returns those that were not there, outermost first."""
        made: list[str] = []
        at = ""
        for part in path.strip("/").split("/"):
            at = f"{at}/{part}"
            if self.is_dir(at):
                continue
            with self.parent(at) as (fd, name):
                os.mkdir(name, mode, dir_fd=fd)
                os.chmod(name, mode, dir_fd=fd)  # whatever our umask
            made.append(at)
        return made

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Replace a file: written aside and renamed, so a link under the name is replaced, not followed."""
        with self.parent(path) as (fd, name):
            temporary = f".{name}.buildstep-{os.getpid()}"
            out = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=fd)
            try:
                try:
                    write_all(out, data)
                    os.fchmod(out, mode)
                finally:
                    os.close(out)
                os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=fd)
                raise

    def remove(self, path: str) -> None:
        """Remove a file, a link or a whole directory; nothing is done when it is not there."""
        try:
            with self.parent(path) as (fd, name):
                remove_at(fd, name, path)
        except (FileNotFoundError, NotADirectoryError):
            return
