"""overlay:PATH. A clone is an overlay mount: the base and cached layers below, the build's changes above.

image/UUID/tree                       a base image, whole
layer/KEY/{upper,origin.json}         what a step changed, and on what it lies
build/ID/{upper,work,tree,origin.json}  a clone; tree is the mount point
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from buildstep.errors import DatasetError, SandboxError
from buildstep.pool.interface import Dataset, Kind
from buildstep.pool.layout import DirectoryPool
from buildstep.system import sealed
from buildstep.system.files import sync_filesystem
from buildstep.system.host import boot_id
from buildstep.system.mount_table import mount_points
from buildstep.system.mounts import (
    MS_NODEV,
    MS_NOSUID,
    MS_RDONLY,
    bind,
    mount,
    mounted,
    overlay_options,
    unmount,
)
from buildstep.system.remove import remove_tree
from buildstep.system.userns import in_user_namespace
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.scan import scan, scan_overlay


@dataclass(frozen=True, slots=True)
class OverlayDataset:
    """A working dataset: a mounted clone, or (upper is None) a plain tree that is being imported."""

    ident: str
    path: Path
    upper: Path | None

    @property
    def kept_at(self) -> str:
        # The mount goes with the build; what was changed is on disk.
        if self.upper is None:
            return os.fspath(self.path)
        return f"{self.path.parent} (what changed is in its upper/)"

    def scan(self, base: FileList, *, owner: Callable[[Entry], tuple[int, int]] | None) -> FileList:
        del owner  # an overlay is only ever used where owners can be set
        return scan(self.path) if self.upper is None else scan_overlay(self.upper, base)


class OverlayBackend(DirectoryPool):
    """Clones cost two directories and one mount, whatever the size of the base."""

    scheme: ClassVar[str] = "overlay"
    cheap_clone = True
    privileged = True

    def __init__(self, location: str) -> None:
        # In a user namespace the kernel lets nobody mark a directory opaque with trusted.* attributes.
        if os.geteuid() != 0 or in_user_namespace():
            raise DatasetError("an overlay pool needs root", hint=f"use --pool dir:{location} without root")
        super().__init__(Path(location).absolute())

    def create(self, ident: str) -> Dataset:
        folder = self.make_folder(ident)
        return OverlayDataset(ident, self.make_tree(folder), None)

    def clone(self, kind: Kind, origin: str, ident: str) -> Dataset:
        lower = self._lower(kind, origin)
        folder = self.make_folder(ident)
        for name in ("upper", "work", "tree"):
            (folder / name).mkdir(mode=0o700)
        _copy_top(lower[0], folder / "upper")
        sealed.write(folder / _ORIGIN, {"kind": kind, "ident": origin}, durable=False)
        options = overlay_options(lower, folder / "upper", folder / "work", volatile=True)
        try:
            mount("overlay", folder / "tree", "overlay", MS_NODEV | MS_NOSUID, options)
        except SandboxError as error:
            raise DatasetError(error.message, hint="use --pool dir:PATH where overlays cannot be") from error
        return OverlayDataset(ident, folder / "tree", folder / "upper")

    def _lower(self, kind: Kind, ident: str) -> list[Path]:
        """The directories under a clone of this dataset, topmost first."""
        lower: list[Path] = []
        while True:
            if not self.exists(kind, ident):
                raise DatasetError(f"there is no {kind} {ident} in {self.uri}")
            folder = self.folder(kind, ident)
            if (folder / "tree").is_dir():
                return [*lower, folder / "tree"]
            lower.append(folder / "upper")
            kind, ident = _origin(folder)

    def snapshot(self, dataset: Dataset, kind: Kind, ident: str) -> None:
        assert isinstance(dataset, OverlayDataset)
        folder = self.folder(Kind.BUILD, dataset.ident)
        if dataset.upper is None:
            sync_filesystem(dataset.path)
        else:
            unmount(dataset.path)
            remove_tree(folder / "work")
            (folder / "tree").rmdir()
            # The clone was mounted volatile, so its data may not be on disk yet. A layer is only good
            # for this boot until then: cheaper than a sync, and as safe.
            origin = sealed.read(folder / _ORIGIN)
            sealed.write(folder / _ORIGIN, {**origin, "boot": boot_id()})
        self.keep(dataset.ident, kind, ident)

    def exists(self, kind: Kind, ident: str) -> bool:
        folder = self.folder(kind, ident)
        if kind is Kind.BUILD or not folder.is_dir() or (folder / "tree").is_dir():
            return folder.is_dir()
        try:
            return bool(sealed.read(folder / _ORIGIN)["boot"] == boot_id())
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @contextlib.contextmanager
    def tree(self, kind: Kind, ident: str) -> Iterator[Path]:
        lower = self._lower(kind, ident)
        if len(lower) == 1:
            yield lower[0]
            return
        # The directory stays: other builds, in mount namespaces of their own, use it at the same time.
        view = self.folder(kind, ident) / "view"
        view.mkdir(mode=0o700, exist_ok=True)
        with mounted("overlay", view, "overlay", MS_RDONLY | MS_NODEV | MS_NOSUID, overlay_options(lower)):
            yield view

    def own(self, kind: Kind, ident: str) -> Path:
        """What is this dataset's alone: the upper directory of a layer, all of an image."""
        return self._lower(kind, ident)[0]

    def damage(self, kind: Kind, ident: str) -> Path | None:
        """The file that says what a dataset lies on, if it is damaged."""
        folder = self.folder(kind, ident)
        try:
            if not (folder / "tree").is_dir():
                _origin(folder)
        except DatasetError:
            return folder / _ORIGIN
        return None

    def destroy(self, kind: Kind, ident: str) -> None:
        folder = self.folder(kind, ident)
        if kind is not Kind.BUILD:
            self._refuse_if_used(kind, ident)
        for point in mount_points(folder):
            unmount(point)
        self.remove(kind, ident)

    def _refuse_if_used(self, kind: Kind, ident: str) -> None:
        users = []
        for other in Kind:
            for name in self.idents(other):
                with contextlib.suppress(DatasetError):
                    if _origin(self.folder(other, name)) == (kind, ident):
                        users.append(f"{other} {name}")
        if users:
            raise DatasetError(
                f"{kind} {ident} is the origin of {', '.join(users)}",
                hint="remove those first, or `buildstep cache prune`",
            )


_ORIGIN = "origin.json"


def _origin(folder: Path) -> tuple[Kind, str]:
    """Return what a dataset lies on. Raises DatasetError where that is not known."""
    try:
        origin = sealed.read(folder / _ORIGIN)
        return Kind(origin["kind"]), str(origin["ident"])
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(
            f"{folder / _ORIGIN} cannot be read: {error}",
            hint="`buildstep cache verify` removes what is damaged",
        ) from error


def _copy_top(lower: Path, upper: Path) -> None:
    """The merged top directory takes its owner, mode and time from the upper one: make them the base's."""
    info = lower.stat()
    os.chown(upper, info.st_uid, info.st_gid)
    upper.chmod(info.st_mode & 0o7777)
    os.utime(upper, ns=(info.st_atime_ns, info.st_mtime_ns))


def works_on(path: Path) -> bool:
    """Whether an overlay can be mounted with its upper directory at `path`: found by doing it."""
    if os.geteuid() != 0 or in_user_namespace():
        return False
    try:
        # Process ids do not tell builds apart: each is process 1 of its own namespace.
        probe = Path(tempfile.mkdtemp(prefix=".probe-", dir=path))
    except OSError:
        return False
    try:
        for name in ("lower", "upper", "work", "tree"):
            (probe / name).mkdir()
        options = overlay_options([probe / "lower"], probe / "upper", probe / "work")
        with mounted("overlay", probe / "tree", "overlay", 0, options), bind(probe / "tree", probe / "tree"):
            return True
    except (OSError, SandboxError):
        return False
    finally:
        for name in ("work/work", "work", "lower", "upper", "tree", ""):
            with contextlib.suppress(OSError):
                (probe / name).rmdir()
