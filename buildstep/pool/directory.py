"""dir:PATH. Plain copies, with shared blocks where the file system can; needs no privilege at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from buildstep.errors import CommandFailed, DatasetError
from buildstep.pool.interface import Dataset, Kind
from buildstep.pool.layout import DirectoryPool
from buildstep.system import host, process
from buildstep.system.mount_table import mount_points
from buildstep.system.mounts import unmount
from buildstep.system.private import private_file
from buildstep.system.userns import in_user_namespace
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.scan import scan, scan_changed


@dataclass(frozen=True, slots=True)
class DirectoryDataset:
    """since: the ctime (ns) at which the copy was complete; 0 for a tree that is being imported."""

    ident: str
    path: Path
    since: int
    privileged: bool

    @property
    def kept_at(self) -> str:
        return os.fspath(self.path)

    def scan(self, base: FileList, *, owner: Callable[[Entry], tuple[int, int]] | None) -> FileList:
        if not self.since:
            return scan(self.path)
        keep = None if self.privileged else owner
        nodes = self.privileged and not in_user_namespace()  # where not even root can make them
        return scan_changed(self.path, base, since=self.since, owner=keep, devices=nodes)


class DirectoryBackend(DirectoryPool):
    """Works anywhere. A clone costs a copy, or on a file system with reflinks the metadata of one."""

    scheme: ClassVar[str] = "dir"
    cheap_clone = False

    def __init__(self, location: str) -> None:
        super().__init__(Path(location).absolute())
        self.privileged = self._owners == "real"

    def create(self, ident: str) -> Dataset:
        folder = self.make_folder(ident)
        return DirectoryDataset(ident, self.make_tree(folder), 0, self.privileged)

    def clone(self, kind: Kind, origin: str, ident: str) -> Dataset:
        source = self.tree_of(kind, origin)
        folder = self.make_folder(ident)
        try:
            process.query(
                host.HERE.copy(source, folder / "tree"),
                timeout=3600,
                what=f"copying {kind} {origin}",
            )
        except CommandFailed as error:
            raise DatasetError(error.message, detail=error.detail) from error
        mark = folder / "complete"
        private_file(mark)
        # Files are stamped with a clock of coarse ticks: past the tick of the last one copied, a ctime
        # tells for sure what was changed later.
        first = mark.stat().st_ctime_ns
        while mark.stat().st_ctime_ns == first:
            time.sleep(0.001)
            private_file(mark)
        return DirectoryDataset(ident, folder / "tree", mark.stat().st_ctime_ns, self.privileged)

    def snapshot(self, dataset: Dataset, kind: Kind, ident: str) -> None:
        self.keep(dataset.ident, kind, ident)

    def destroy(self, kind: Kind, ident: str) -> None:
        if self.privileged:
            for point in mount_points(self.folder(kind, ident)):
                unmount(point)
        self.remove(kind, ident)
