"""btrfs:PATH. Every dataset is a subvolume: clones are snapshots, streams come from `btrfs send`.

image/UUID/tree    a read-only subvolume
layer/KEY/tree     a read-only subvolume
build/ID/tree      a working dataset; beside it `complete`, whose ctime tells when it was cloned,
                   and while it is sent `final`, a read-only snapshot
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from buildstep.errors import CommandFailed, DatasetError
from buildstep.pool.interface import Dataset, Kind
from buildstep.pool.layout import DirectoryPool, aside_name
from buildstep.system import process
from buildstep.system.mount_table import mount_points
from buildstep.system.mounts import unmount
from buildstep.system.private import private_file
from buildstep.system.remove import remove_tree
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.scan import scan, scan_changed

_MAGIC = 0x9123683E  # linux/magic.h
_SUBVOLUME_INODE = 256


@dataclass(frozen=True, slots=True)
class BtrfsDataset:
    """since: the ctime (ns) at which the clone was complete; 0 for a tree that is being imported."""

    ident: str
    path: Path
    since: int

    @property
    def kept_at(self) -> str:
        return os.fspath(self.path)

    def scan(self, base: FileList, *, owner: Callable[[Entry], tuple[int, int]] | None) -> FileList:
        del owner  # a btrfs pool is only ever used by root
        return scan_changed(self.path, base, since=self.since) if self.since else scan(self.path)


class BtrfsBackend(DirectoryPool):
    """Clones cost one snapshot, whatever the size of the base."""

    scheme: ClassVar[str] = "btrfs"
    stream_format: ClassVar[str] = "btrfs"
    cheap_clone = True
    privileged = True

    def __init__(self, location: str) -> None:
        path = Path(location).absolute()
        if os.geteuid() != 0:
            raise DatasetError("a btrfs pool needs root", hint=f"use --pool dir:{location} without root")
        if not is_btrfs(path):
            raise DatasetError(
                f"{path} is not on btrfs", hint=f"use --pool overlay:{path}, or a directory on a btrfs"
            )
        process.which("btrfs")
        super().__init__(path)

    # -- Backend -------------------------------------------------------------------------------------

    def create(self, ident: str) -> Dataset:
        folder = self.make_folder(ident)
        _btrfs("subvolume", "create", os.fspath(folder / "tree"))
        (folder / "tree").chmod(0o755)
        return BtrfsDataset(ident, folder / "tree", 0)

    def clone(self, kind: Kind, origin: str, ident: str) -> Dataset:
        source = self.tree_of(kind, origin)
        folder = self.make_folder(ident)
        _btrfs("subvolume", "snapshot", os.fspath(source), os.fspath(folder / "tree"))
        mark = folder / "complete"
        private_file(mark)
        return BtrfsDataset(ident, folder / "tree", mark.stat().st_ctime_ns)

    def snapshot(self, dataset: Dataset, kind: Kind, ident: str) -> None:
        if self.exists(kind, ident):
            raise DatasetError(f"cannot keep {dataset.ident} as {kind} {ident}: it is there already")
        if not _is_read_only(dataset.path):
            _btrfs("property", "set", "-t", "subvol", os.fspath(dataset.path), "ro", "true")
        (dataset.path.parent / "complete").unlink(missing_ok=True)
        self.keep(dataset.ident, kind, ident)

    def destroy(self, kind: Kind, ident: str) -> None:
        folder = self.folder(kind, ident)
        for point in mount_points(folder):
            unmount(point)
        if kind is not Kind.BUILD:
            aside = self.folder(Kind.BUILD, aside_name(kind, ident))
            try:
                folder.rename(aside)
            except FileNotFoundError:
                return
            folder = aside
        for name in ("final", "tree"):
            _delete(folder / name)
        self.remove(Kind.BUILD, folder.name)

    # -- NativeStreams -------------------------------------------------------------------------------

    def receive(self, ident: str, fd: int, *, origin: str | None) -> Dataset:
        if origin is not None:
            self.tree_of(Kind.IMAGE, origin)  # btrfs finds the parent by its uuid, in the whole file system
        folder = self.make_folder(ident)
        try:
            with process.spawn(
                ["btrfs", "receive", "-q", "-e", os.fspath(folder)], stdin=fd, what="btrfs receive"
            ):
                pass
            received = [name for name in os.listdir(folder) if _is_subvolume(folder / name)]
            if len(received) != 1:
                raise DatasetError(f"the btrfs stream holds {len(received)} snapshots, an image has one")
            (folder / received[0]).rename(folder / "tree")
        except (DatasetError, CommandFailed) as error:
            for name in os.listdir(folder):
                _delete(folder / name)
            self.remove(Kind.BUILD, ident)
            if isinstance(error, CommandFailed):
                raise DatasetError("cannot receive the btrfs stream", detail=error.detail) from error
            raise
        return BtrfsDataset(ident, folder / "tree", 0)

    def send(self, dataset: Dataset, fd: int, *, origin: str | None) -> None:
        final = dataset.path.parent / "final"
        if not final.exists():
            _btrfs("subvolume", "snapshot", "-r", os.fspath(dataset.path), os.fspath(final))
        parent = [] if origin is None else ["-p", os.fspath(self.tree_of(Kind.IMAGE, origin))]
        try:
            with process.spawn(
                ["btrfs", "send", "-q", *parent, os.fspath(final)], stdout=fd, what="btrfs send"
            ):
                pass
        except CommandFailed as error:
            raise DatasetError(error.message, detail=error.detail) from error

    def guid(self, kind: Kind, ident: str) -> str:
        told = _btrfs("subvolume", "show", os.fspath(self.tree_of(kind, ident)))
        found = dict(re.findall(r"^\s*(UUID|Received UUID):\s*(\S+)$", told, re.MULTILINE))
        received = found.get("Received UUID", "-")
        return str(found["UUID"] if received == "-" else received)


def is_btrfs(path: Path) -> bool:
    """Whether a path, or the nearest directory above it that exists, is on btrfs."""
    while not path.exists():
        path = path.parent
    buffer = (ctypes.c_long * 64)()
    done = ctypes.CDLL(None).statfs(os.fsencode(path), buffer)
    return bool(done == 0 and buffer[0] == _MAGIC)


def _btrfs(*words: str) -> str:
    try:
        return process.query(["btrfs", *words], timeout=600, what=f"btrfs {words[0]} {words[1]}").stdout
    except CommandFailed as error:
        raise DatasetError(error.message, detail=error.detail) from error


def _is_subvolume(path: Path) -> bool:
    try:
        info = path.lstat()
    except FileNotFoundError:
        return False
    return info.st_ino == _SUBVOLUME_INODE and path.is_dir() and not path.is_symlink()


def _is_read_only(path: Path) -> bool:
    return _btrfs("property", "get", "-t", "subvol", os.fspath(path), "ro").strip() == "ro=true"


def _delete(path: Path) -> None:
    """Delete a subvolume; nothing if there is none."""
    if not _is_subvolume(path):
        return
    try:
        if _is_read_only(path):
            _btrfs("property", "set", "-f", "-t", "subvol", os.fspath(path), "ro", "false")
        _btrfs("subvolume", "delete", os.fspath(path))
    except DatasetError:
        # Something in the image made subvolumes of its own in there, under names that only the kernel can be
        # trusted to read.
        remove_tree(path)
