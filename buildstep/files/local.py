"""A store in a directory of this machine.

A blob is written under a temporary name in `tmp/`, synced, and linked to its name: the link fails where the
name is taken, so that of two writers one wins, and nobody ever sees half a file. Names that can change are
swapped by a rename under a kernel lock.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from buildstep.errors import StoreError
from buildstep.files.interface import Access, Item, Missing, ReadOnly, Versioned, checked, checked_under
from buildstep.files.layout import TEMPORARY
from buildstep.files.real_folders import RealFolders
from buildstep.system.files import copy_range, fsync_dir, write_all
from buildstep.system.locks import create_locked, lock, lock_directory, try_lock
from buildstep.system.private import private_dir
from buildstep.system.space import existing

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_MODE = 0o444
_SWAPPING = "swap.lock"
_SSH = "ssh"
"""Where writers by ssh have their temporary files, without locks: see `ssh_scripts`."""
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Local:
    """`dir:PATH`, or a path alone."""

    scheme: ClassVar[str] = "dir"
    at_once = 8

    def __init__(self, place: str, _access: Access) -> None:
        self.root = Path(os.path.abspath(place))
        self.url = f"dir:{self.root}"
        self._folders = RealFolders(self.root)
        self._checked = False

    @property
    def writable(self) -> bool:
        return self._why_not() is None

    # -- reading ---------------------------------------------------------------------------------------

    def exists(self, names: Collection[str]) -> set[str]:
        """See `Storage`."""
        top = os.fspath(self.root) + "/"
        found = set()
        for name in names:
            try:
                if self._folders.check_above(checked(name)) and stat.S_ISREG(os.lstat(top + name).st_mode):
                    found.add(name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise self._error("look at", name, error) from error
        if not found:
            self._check_top()
        return found

    def list(self, under: str) -> Iterator[Item]:
        """See `Storage`."""
        pending = [checked_under(under)]
        while pending:
            prefix = pending.pop()
            try:
                self._folders.check(prefix.removesuffix("/"))
                listing = os.scandir(self.root / prefix)
            except (FileNotFoundError, NotADirectoryError):
                self._check_top()
                continue
            except OSError as error:
                raise self._error("list", prefix, error) from error
            with listing:
                for item in listing:
                    if item.name.startswith(".") or f"{prefix}{item.name}/" == TEMPORARY:
                        continue
                    if item.is_dir(follow_symlinks=False):
                        pending.append(f"{prefix}{item.name}/")
                    elif item.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):
                            info = item.stat(follow_symlinks=False)
                            yield Item(prefix + item.name, info.st_size, info.st_mtime)

    def read(self, name: str, start: int = 0, count: int | None = None) -> bytes:
        """See `Storage`."""
        with self._opened(name) as fd:
            size = os.fstat(fd).st_size
            begin = max(0, size + start) if start < 0 else start
            wanted = max(0, size - begin) if count is None else min(count, max(0, size - begin))
            pieces = []
            while wanted and (piece := os.pread(fd, wanted, begin)):
                pieces.append(piece)
                begin, wanted = begin + len(piece), wanted - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def fetch(self, name: str, target: Path) -> None:
        """See `Storage`."""
        with self._opened(name) as source:
            copy = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                copy_range(source, copy, os.fstat(source).st_size)
            finally:
                os.close(copy)

    def load(self, name: str) -> Versioned | None:
        """See `Storage`."""
        try:
            data = self.read(name)
        except Missing:
            return None
        return Versioned(data, hashlib.sha256(data).hexdigest())

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        try:
            self._folders.check_above(checked(name))
            fd = os.open(self.root / name, _READ)
        except (FileNotFoundError, NotADirectoryError):
            self._check_top()
            raise Missing(f"{self.url} has no {name}") from None
        except OSError as error:
            raise self._error("read", name, error) from error
        try:
            # A pipe or a device that somebody put there must not make us wait.
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise StoreError(
                    f"{self.root / name} is no regular file", hint="what put it there? remove it"
                )
            yield fd
        except OSError as error:
            raise self._error("read", name, error) from error
        finally:
            os.close(fd)

    # -- writing ---------------------------------------------------------------------------------------

    def write(self, name: str, data: bytes | Path) -> bool:
        """See `Storage`. A file of a `spool` is linked, not copied."""
        final = self.root / checked(name)
        self._prepare()
        try:
            if self._folders.check_above(name) and os.path.lexists(final):
                return False
            if isinstance(data, Path) and data.parent.parent == self._temporaries:
                with data.open("rb") as stream:
                    return self._link(stream.fileno(), data, final)
            with self._temporary() as (fd, path):
                if isinstance(data, Path):
                    with data.open("rb") as source:
                        copy_range(source.fileno(), fd, os.fstat(source.fileno()).st_size)
                else:
                    write_all(fd, data)
                return self._link(fd, path, final)
        except OSError as error:
            raise self._error("write", name, error) from error

    @property
    def _temporaries(self) -> Path:
        return self.root / TEMPORARY

    def _link(self, fd: int, path: Path, final: Path) -> bool:
        """Make a complete file durable and give it its name; False if that is taken."""
        os.fchmod(fd, _MODE)
        os.fsync(fd)
        try:
            os.link(path, final, follow_symlinks=False)
        except FileExistsError:
            return False
        except FileNotFoundError:
            self._make_folder(os.fspath(final.parent.relative_to(self.root)))
            return self._link(fd, path, final)
        fsync_dir(final.parent)
        return True

    @contextlib.contextmanager
    def spool(self) -> Iterator[Path]:
        """See `Storage`."""
        self._prepare()
        try:
            while True:
                path = self._temporaries / self._new_name()
                if (fd := self._locked_folder(path)) is not None:
                    break
        except OSError as error:
            raise self._error("write to", TEMPORARY, error) from error
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(fd)

    def _locked_folder(self, path: Path) -> int | None:
        """Make a directory and lock it. None if another process took it for what a dead one left."""
        path.mkdir(mode=0o700)
        try:
            fd = lock_directory(path)
            if fd is None or os.path.samestat(os.fstat(fd), os.lstat(path)):
                return fd
        except FileNotFoundError:
            return None
        os.close(fd)
        return None

    def _new_name(self) -> str:
        return f"{os.getpid()}.{threading.get_ident()}.{time.monotonic_ns()}"

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[int, Path]]:
        """Yield a new file in `tmp/`, locked as long as we live; it is removed at the end."""
        while True:
            path = self._temporaries / self._new_name()
            if (fd := create_locked(path, 0o600)) is not None:
                break
        try:
            yield fd, path
        finally:
            path.unlink(missing_ok=True)
            os.close(fd)

    def delete(self, names: Iterable[str]) -> None:
        """See `Storage`."""
        self._prepare()
        for name in names:
            try:
                if self._folders.check_above(checked(name)):
                    (self.root / name).unlink(missing_ok=True)
            except OSError as error:
                raise self._error("delete", name, error) from error

    def swap(self, name: str, data: bytes | None, version: str | None) -> bool:
        """See `Storage`."""
        path = self.root / checked(name)
        self._prepare()
        with lock(self._temporaries / _SWAPPING):
            there = self.load(name)
            if (there.version if there else None) != version:
                return False
            try:
                if data is None:
                    if there is not None:
                        path.unlink(missing_ok=True)
                        fsync_dir(path.parent)
                else:
                    self._make_folder(name.rpartition("/")[0])
                    with self._temporary() as (fd, temporary):
                        write_all(fd, data)
                        os.fchmod(fd, _MODE | stat.S_IWUSR)
                        os.fsync(fd)
                        temporary.replace(path)
                        fsync_dir(path.parent)
            except OSError as error:
                raise self._error("write", name, error) from error
        return True

    # -- who may write ---------------------------------------------------------------------------------

    def _why_not(self) -> str | None:
        """Return why this user may not write here, None if he may. A store that is not there is made."""
        try:
            info = os.stat(self.root)
        except FileNotFoundError:
            return None if os.access(existing(self.root), os.W_OK) else "it is not there, and cannot be made"
        except OSError as error:
            return str(error.strerror)
        if not stat.S_ISDIR(info.st_mode):
            return "it is no directory"
        # Whoever may write to the directory could put a link in the place of a directory of ours, and what we
        # write as root would land elsewhere.
        if info.st_uid != os.geteuid():
            return f"it belongs to the user {info.st_uid}"
        if info.st_mode & _OTHERS_MAY_WRITE:
            return f"others may write to it (mode {stat.S_IMODE(info.st_mode):04o})"
        return None if os.access(self.root, os.W_OK) else "the file system does not allow it"

    def _prepare(self) -> None:
        if self._checked:
            return
        if (why := self._why_not()) is not None:
            raise ReadOnly(f"{self.url} cannot be written to: {why}", hint="use a store of your own")
        try:
            self._make_folder(TEMPORARY.removesuffix("/"))
            self._sweep()
        except OSError as error:
            raise self._error("make", "", error) from error
        self._checked = True

    def _make_folder(self, folder: str) -> None:
        """Make a directory of the store, by its name in it. Others may read the store once somebody lets them
        into its top: what images hold can be secret."""
        private_dir(self.root)
        missing = []
        while not self._folders.check(folder):
            missing.append(folder)
            folder = folder.rpartition("/")[0]
        for name in reversed(missing):
            path = self.root / name
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o755)
            if not self._folders.check(name):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(path))
            fsync_dir(path.parent)

    def _sweep(self) -> None:
        """Remove what dead writers left in `tmp/`: theirs is not locked any more."""
        for path in self._temporaries.iterdir():
            if path.name in (_SWAPPING, _SSH):
                continue
            with contextlib.suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    if (fd := lock_directory(path)) is not None:
                        shutil.rmtree(path, ignore_errors=True)
                        os.close(fd)
                    continue
                with try_lock(path, create=False) as ours:
                    if ours:
                        path.unlink(missing_ok=True)

    def _check_top(self) -> None:
        """Raise StoreError for a file in the place of the whole store: that is no empty store."""
        if os.path.lexists(self.root) and not os.path.isdir(self.root):
            raise StoreError(f"{self.root} is no directory", hint="a store is one: is the path right?")

    def _error(self, what: str, name: str, error: OSError) -> StoreError:
        where = self.root / name if name else self.root
        return StoreError(f"cannot {what} {where}: {error.strerror}")
