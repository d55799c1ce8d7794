"""A component's own files in its stage: shown through an overlay where mounts end with the run, else copied.

An overlay costs nothing, however many files there are, and what is written goes to its upper directory. What
does not belong to the component (ignored files, `dependency`, `generated`) is hidden by whiteouts there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from buildstep.components.interface import Component
from buildstep.errors import SandboxError
from buildstep.system import files, mounts
from buildstep.system.remove import remove_tree


class OwnFiles:
    """Brings components into their stages. mounting: whether mounts of this process end with it."""

    def __init__(self, *, mounting: bool) -> None:
        self._mounting = mounting
        self._mounted: set[Path] = set()
        self._lock = threading.Lock()

    def bring(self, component: Component, folder: Path, beside: Path) -> Path | None:
        """Make a directory with the files of a component. beside: an empty one for what an overlay needs.

        Returns the upper directory of the overlay, None where the files are copies.
        """
        folder.mkdir(parents=True)
        if self._mounting and self._mount(component, folder, beside):
            return beside / "upper"
        copy, made = Copier(), set[str]()
        for name in component.files:
            copy.one(component.path / name, folder, name, made)
        return None

    def drop(self, below: Path) -> None:
        """Unmount what is at or below a directory."""
        with self._lock:
            found = [path for path in self._mounted if path.is_relative_to(below)]
            self._mounted.difference_update(found)
        for path in found:
            mounts.unmount(path)

    def _mount(self, component: Component, folder: Path, beside: Path) -> bool:
        upper, work = beside / "upper", beside / "work"
        upper.mkdir()
        work.mkdir()
        try:
            for name in _foreign(component):
                _hide(component.path, upper, name)
            options = mounts.overlay_options([component.path], upper, work, volatile=True)
            mounts.mount("overlay", folder, "overlay", data=options)
        except (OSError, SandboxError):
            # The file system of the state cannot hold an upper directory: it will not for the others either.
            self._mounting = False
            remove_tree(upper)
            return False
        with self._lock:
            self._mounted.add(folder)
        return True


def _foreign(component: Component) -> Iterator[str]:
    """Yield what is in a component's directory and does not belong to it; the topmost paths only."""
    names: dict[str, set[str]] = {"": set()}  # what belongs to the component, by directory
    for file in component.files:
        folder, _, name = file.rpartition("/")
        while folder not in names:
            names[folder] = {name}
            folder, _, name = folder.rpartition("/")
        names[folder].add(name)
    for folder, own in names.items():
        top = component.path / folder
        for name in os.listdir(top):
            path = f"{folder}/{name}" if folder else name
            if name not in own or (path in names and not _is_directory(top / name)):
                yield path


def _is_directory(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def _hide(source: Path, upper: Path, name: str) -> None:
    """Hide a path of the lower directory: a whiteout is a device 0:0 (kernel: filesystems/overlayfs)."""
    above = ""
    for part in name.split("/")[:-1]:
        above = f"{above}/{part}".lstrip("/")
        with contextlib.suppress(FileExistsError):
            (upper / above).mkdir()
            info = (source / above).stat()
            os.chown(upper / above, info.st_uid, info.st_gid)
            shutil.copystat(source / above, upper / above)
    os.mknod(upper / name, stat.S_IFCHR, os.makedev(0, 0))


class Copier:
    """Copies files, links and directories; shares blocks where the file system can."""

    def __init__(self) -> None:
        self._shares = True

    def one(self, source: Path, top: Path, name: str, made: set[str]) -> None:
        """Copy one path to the same path below another directory. made: parents that are there already."""
        parent = os.path.dirname(name)
        if parent not in made:
            os.makedirs(top / parent, exist_ok=True)
            made.add(parent)
        target = os.path.join(top, name)
        info = os.lstat(source)
        if stat.S_ISDIR(info.st_mode):
            if os.path.islink(target) or not os.path.isdir(target):
                remove_tree(target)
                os.mkdir(target)
            os.chmod(target, stat.S_IMODE(info.st_mode) | 0o700)
            return
        with contextlib.suppress(FileNotFoundError):
            if os.path.isdir(target) and not os.path.islink(target):
                remove_tree(target)
            else:
                os.unlink(target)
        if stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(source), target)
        else:
            self._file(source, target, info)

    def _file(self, source: Path, target: str, info: os.stat_result) -> None:
        with open(source, "rb", buffering=0) as old, open(target, "xb", buffering=0) as new:
            if self._shares and info.st_size:
                self._shares = files.clone(old.fileno(), new.fileno())
            if not self._shares:
                files.copy_range(old.fileno(), new.fileno(), info.st_size)
            os.fchmod(new.fileno(), stat.S_IMODE(info.st_mode))
            os.utime(new.fileno(), ns=(info.st_atime_ns, info.st_mtime_ns))
