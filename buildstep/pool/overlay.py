"""overlay:PATH. A clone is an overlay mount: the base and cached layers below, the build's changes above.

Root of a user namespace has it as well, where the kernel lets it mount overlays (Linux 5.11 and later). What
hides files of lower layers is then told by attributes that users may set.

image/UUID/tree                       a base image, whole
layer/KEY/{upper,origin.json}         what a step changed, and on what it lies
build/ID/{upper,work,tree,origin.json}  a clone; tree is the mount point
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from buildstep.errors import BuildstepError, DatasetError, SandboxError
from buildstep.pool.interface import Dataset, Kind
from buildstep.pool.layout import DirectoryPool
from buildstep.system import root_namespace, sealed
from buildstep.system.files import sync_filesystem
from buildstep.system.host import boot_id
from buildstep.system.mount_table import mount_points
from buildstep.system.mounts import (
    MS_NODEV,
    MS_NOSUID,
    MS_RDONLY,
    bind,
    mount,
    overlay_options,
    unmount,
)
from buildstep.system.remove import remove_tree
from buildstep.system.userns import in_user_namespace
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.scan import Marks, scan, scan_overlay


@dataclass(frozen=True, slots=True)
class OverlayDataset:
    """A working dataset: a mounted clone, or (upper is None) a plain tree that is being imported."""

    ident: str
    path: Path
    upper: Path | None
    marks: Marks

    @property
    def kept_at(self) -> str:
        # The mount goes with the build; what was changed is on disk.
        if self.upper is None:
            return os.fspath(self.path)
        return f"{self.path.parent} (what changed is in its upper/)"

    def scan(self, base: FileList, *, owner: Callable[[Entry], tuple[int, int]] | None) -> FileList:
        del owner  # an overlay is only ever used where owners can be set
        return scan(self.path) if self.upper is None else scan_overlay(self.upper, base, self.marks)


class OverlayBackend(DirectoryPool):
    """Clones cost two directories and one mount, whatever the size of the base."""

    scheme: ClassVar[str] = "overlay"
    cheap_clone = True
    privileged = True

    def __init__(self, location: str) -> None:
        if lacking := _lacking():
            raise DatasetError(
                f"{self.scheme}: pools need root, here or of a user namespace, and {lacking}",
                hint=f"use --pool dir:{location} without either",
            )
        super().__init__(Path(location).absolute())
        self.marks = self.marks_here()

    @classmethod
    def marks_here(cls) -> Marks:
        """How upper directories tell what they hide, for this process."""
        inside = in_user_namespace()
        return Marks("user.overlay.opaque" if inside else "trusted.overlay.opaque", blind=inside)

    @classmethod
    def mount(
        cls, target: Path, lower: Sequence[Path], upper: Path | None = None, work: Path | None = None
    ) -> None:
        """Mount an overlay. `lower` lists the topmost first; without `upper` it is read-only."""
        read_only = MS_RDONLY if upper is None else 0
        options = overlay_options(lower, upper, work, volatile=upper is not None, user=in_user_namespace())
        mount("overlay", target, "overlay", read_only | MS_NODEV | MS_NOSUID, options)

    @classmethod
    def refusal(cls, path: Path) -> str:
        """Return why a pool of overlays cannot be at `path`, found by making one; empty if it can.

        What a build does there is done: something of a lower layer is removed, and a directory is put in
        place of another, which takes attributes that not every file system has. In a user namespace the
        caller has a mount namespace as well.
        """
        if lacking := _lacking():
            return lacking
        try:
            # Process ids do not tell builds apart: each is process 1 of its own namespace.
            probe = Path(tempfile.mkdtemp(prefix=".probe-", dir=path))
        except OSError as error:
            return f"nothing can be written to {path}: {error.strerror}"
        tree = probe / "tree"
        try:
            for name in ("lower", "lower/folder", "upper", "work", "tree"):
                (probe / name).mkdir()
            (probe / "lower/gone").touch()
            cls.mount(tree, [probe / "lower"], probe / "upper", probe / "work")
            try:
                (tree / "gone").unlink()
                (tree / "folder").rmdir()
                (tree / "folder").mkdir()
                with bind(tree, tree):
                    seen = scan_overlay(probe / "upper", scan(probe / "lower"), cls.marks_here())
                    return "" if set(seen) == {b"", b"folder"} else "what was removed from it is not told"
            finally:
                unmount(tree)
        except SandboxError as error:
            return error.message.replace(os.fspath(probe), os.fspath(path))
        except OSError as error:
            return f"a file system of this kind cannot hold one: {error.strerror}"
        finally:
            with contextlib.suppress(OSError, BuildstepError):
                remove_tree(probe)

    def create(self, ident: str) -> Dataset:
        folder = self.make_folder(ident)
        return OverlayDataset(ident, self.make_tree(folder), None, self.marks)

    def clone(self, kind: Kind, origin: str, ident: str) -> Dataset:
        lower = self.lower(kind, origin)
        folder = self.make_folder(ident)
        for name in ("upper", "work", "tree"):
            (folder / name).mkdir(mode=0o700)
        _copy_top(lower[0], folder / "upper")
        sealed.write(folder / _ORIGIN, {"kind": kind, "ident": origin}, durable=False)
        try:
            self.mount(folder / "tree", lower, folder / "upper", folder / "work")
        except SandboxError as error:
            raise DatasetError(error.message, hint="use --pool dir:PATH where overlays cannot be") from error
        return OverlayDataset(ident, folder / "tree", folder / "upper", self.marks)

    def lower(self, kind: Kind, ident: str) -> list[Path]:
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
            sealed.write(folder / _ORIGIN, {**origin, "boot": boot_id(), "opaque": self.marks.opaque})
        self.keep(dataset.ident, kind, ident)

    def exists(self, kind: Kind, ident: str) -> bool:
        folder = self.folder(kind, ident)
        if kind is Kind.BUILD or not folder.is_dir() or (folder / "tree").is_dir():
            return folder.is_dir()
        try:
            origin = sealed.read(folder / _ORIGIN)
            # Root that may mount and root that may not share a pool, but not each other's marks.
            marks = origin.get("opaque", "trusted.overlay.opaque")
            return bool(origin["boot"] == boot_id() and marks == self.marks.opaque)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @contextlib.contextmanager
    def tree(self, kind: Kind, ident: str) -> Iterator[Path]:
        lower = self.lower(kind, ident)
        if len(lower) == 1:
            yield lower[0]
            return
        # The directory stays: other builds, in mount namespaces of their own, use it at the same time.
        view = self.folder(kind, ident) / "view"
        view.mkdir(mode=0o700, exist_ok=True)
        self.mount(view, lower)
        try:
            yield view
        finally:
            unmount(view)

    def own(self, kind: Kind, ident: str) -> Path:
        """What is this dataset's alone: the upper directory of a layer, all of an image."""
        return self.lower(kind, ident)[0]

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


def _lacking() -> str:
    if os.geteuid() != 0:
        return "this is not root"
    return "this root may not mount: it lacks CAP_SYS_ADMIN" if root_namespace.is_needed() else ""
