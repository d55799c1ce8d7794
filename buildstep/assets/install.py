"""The directory that assets are installed in: its lock, what is staged there, and how it gets seen.

    <install>/<service>/<version>/     an asset, complete whenever it is there
    <install>/<service>/current        a link to the version that runs, where one was made
    <install>/.staging/                ours alone: the lock, and what is being unpacked or removed

An asset is unpacked in `.staging`, made durable, and moved to its place by one rename(2). To be moved, it has
to be on the same file system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from buildstep.assets.mark import MARK, Mark, read_mark
from buildstep.assets.policy import Staged
from buildstep.errors import BuildstepError, DatasetError, UsageError
from buildstep.system.files import atomic_write, fsync_dir, sync_filesystem
from buildstep.system.locks import Tell, lock
from buildstep.system.remove import remove_tree

STAGING: Final = ".staging"

_LOCK = "lock"
_FEW_FOLDERS = 3
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


@contextlib.contextmanager
def locked(install: Path, tell: Tell | None = None) -> Iterator[InstallDir]:
    """Hold an install directory for the length of a block, made if it is not there; waits for others.

    Processes that were forked in the block hold it as well, until they end. Raises UsageError for a directory
    that is not safe, OSError.
    """
    try:
        install.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(
            f"cannot make the directory {install}: {error.strerror}",
            hint="--install-dir names a directory, which need not be there yet",
        ) from error
    staging = install / STAGING
    with contextlib.suppress(FileExistsError):
        staging.mkdir(mode=0o700)
    info = os.lstat(staging)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
        raise UsageError(
            f"{staging} is not a directory of this user alone",
            hint="assets are pulled by one user, who owns it; remove it if it is nobody's, or name another"
            " directory with --install-dir",
        )
    with lock(staging / _LOCK, tell=tell):
        yield InstallDir(install, staging)


class InstallDir:
    """An install directory that this process has locked. Its methods raise OSError, BuildstepError."""

    def __init__(self, path: Path, staging: Path) -> None:
        self.path = path
        self._staging = staging
        self._boot = _boot_id()
        self._run = staging / f"{self._boot}.{secrets.token_hex(6)}"
        self._numbers = iter(range(1 << 62))

    def place(self, service: str, version: str) -> Path:
        """Return where a version is, or will be."""
        return self.path / service / version

    def begin(self) -> Path:
        """Return the directory where this run stages assets. What others left goes by `sweep`."""
        self._run.mkdir(mode=0o700, exist_ok=True)
        return self._run

    # -- what killed pulls left ------------------------------------------------------------------------

    def left(self) -> Iterator[tuple[Path, Mark]]:
        """Yield what killed pulls have staged completely, with its mark.

        Only what was written since this machine was started: a write is then in memory, or on the disk. After
        a crash of the machine a mark may be on the disk and the files beside it not.
        """
        for folder in self._leftovers():
            if self._boot and folder.name.startswith(f"{self._boot}."):
                for item in sorted(folder.iterdir()):
                    if (mark := read_mark(item)) is not None:
                        yield item, mark

    def sweep(self) -> None:
        """Remove what runs left in the staging directory, this one too."""
        for folder in self._leftovers(own=True):
            remove_tree(folder)

    def _leftovers(self, *, own: bool = False) -> list[Path]:
        found = [self._staging / name for name in sorted(os.listdir(self._staging)) if name != _LOCK]
        return [path for path in found if own or path != self._run]

    # -- what is seen ----------------------------------------------------------------------------------

    def publish(self, staged: Iterable[Staged]) -> list[BuildstepError | OSError | None]:
        """Give staged assets their names, durable before they are seen; return the error of each, if any.

        One syncfs(2) in place of an fsync(2) of each of thousands of files and directories: nothing has its
        name before all of it returned, which is what fsync gives as well, and the disk sees one commit of its
        journal, not thousands. It waits for what others write to this file system, too.
        """
        todo = list(staged)
        results: list[BuildstepError | OSError | None] = []
        touched: set[Path] = set()
        try:
            sync_filesystem(self._staging)
            for item in todo:
                name = item.asset.name
                try:
                    folder = self._service(name.service, touched)
                    self._move(Path(item.folder), folder, name.version)
                    touched.add(folder)
                    results.append(None)
                except (BuildstepError, OSError) as error:
                    results.append(error)
            # Each fsync(2) of a directory is a commit of the journal; one for all is enough.
            if len(touched) > _FEW_FOLDERS:
                sync_filesystem(self.path)
            else:
                for folder in touched:
                    fsync_dir(folder)
        except OSError as error:  # a disk that fails: nothing is certain of this batch
            return [error] * len(todo)
        return results

    def _service(self, service: str, touched: set[Path]) -> Path:
        """Return a service's directory, made if it is not there. touched: takes what is to be synced then."""
        folder = self.path / service
        try:
            os.mkdir(folder, 0o755)
        except FileExistsError:
            info = os.lstat(folder)
            shared = os.stat(self.path).st_mode & stat.S_IWOTH
            if not stat.S_ISDIR(info.st_mode):
                raise UsageError(f"{folder} is no directory") from None
            if shared and info.st_uid != os.geteuid():
                # Its owner could put anything in the place of what we install.
                raise UsageError(
                    f"{folder} belongs to another user, and everybody can write to {self.path}"
                ) from None
        else:
            touched.add(self.path)
        return folder

    def _move(self, source: Path, folder: Path, version: str) -> None:
        target = folder / version
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno == errno.ENOTDIR:
                raise UsageError(
                    f"{target} is no directory",
                    hint="remove it: only directories with their files are replaced",
                ) from error
            if error.errno not in _TAKEN:
                raise
            old = self._swap(source, target)
            with contextlib.suppress(DatasetError):  # `sweep` tells of what stays
                remove_tree(old)

    def _swap(self, source: Path, target: Path) -> Path:
        """Put a directory in the place of another; return where the other is now."""
        from buildstep.system.beneath import exchange  # seldom needed, and most pulls are over soon

        try:
            # There is never a moment without this version.
            with _opened(source.parent) as ours, _opened(target.parent) as theirs:
                exchange(ours, os.fsencode(source.name), theirs, os.fsencode(target.name))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            old = source.with_name(f"replaced-{source.name}")
            os.rename(target, old)  # this file system cannot do both at once: there is such a moment
            os.rename(source, target)
            return old
        return source

    def refresh(self, service: str, version: str, mark: Mark) -> None:
        """Replace the mark of an installed version, whose content is the same; the old one is as true."""
        with atomic_write(self.place(service, version) / MARK, mode=0o644, durable=False) as stream:
            stream.write(mark.dumps())

    def remove(self, service: str, version: str) -> None:
        """Remove an installed version: it is gone in one step, and its files follow."""
        place = self.place(service, version)
        aside = self.begin() / f"removed-{next(self._numbers)}"
        os.rename(place, aside)
        fsync_dir(place.parent)
        remove_tree(aside)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder, _FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)


def _boot_id() -> str:
    """Return what names this start of the machine; empty where nothing does."""
    try:
        return _BOOT.read_text().strip().replace("-", "")
    except OSError:
        return ""
