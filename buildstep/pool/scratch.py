"""A throw-away layer over a tree: what is written to it is gone at the end, and the tree is as it was."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from buildstep.errors import CommandFailed, DatasetError, SandboxError
from buildstep.system import host, process
from buildstep.system.mount_table import mount_points
from buildstep.system.mounts import MS_NODEV, MS_NOSUID, mounted, overlay_options, tmpfs, unmount
from buildstep.system.private import private_dir
from buildstep.system.remove import remove_tree
from buildstep.system.userns import in_user_namespace


@contextlib.contextmanager
def beside(tree: Path, folder: Path) -> Iterator[Path]:
    """Yield a view of a tree, with what is written to it in a folder beside it while the block lasts.

    folder: of the dataset, so that it goes with that where this process is killed. Where no overlay can be
    mounted the view is a copy. Raises DatasetError.
    """
    place = folder / f"scratch-{secrets.token_hex(4)}"
    private_dir(place)
    try:
        with contextlib.ExitStack() as stack:
            try:
                view = stack.enter_context(_overlay(tree, place))
            except SandboxError:
                view = _copy(tree, place)
            yield view
    finally:
        for point in mount_points(place) if os.geteuid() == 0 else ():
            unmount(point)
        remove_tree(place)


@contextlib.contextmanager
def in_memory(tree: Path, point: Path) -> Iterator[Path]:
    """Yield such a view with what is written to it in memory, below a mount point of the pool: for pools in
    which not every directory is a plain one. Raises DatasetError."""
    private_dir(point)
    try:
        with tmpfs(point, mode=0o700), _overlay(tree, point) as view:
            yield view
    except SandboxError as error:
        raise DatasetError(error.message, detail=error.detail, hint=error.hint) from error


@contextlib.contextmanager
def _overlay(tree: Path, place: Path) -> Iterator[Path]:
    for name in ("upper", "work", "tree"):
        (place / name).mkdir(mode=0o700)
    info = tree.stat()
    # The merged top takes its owner, mode and time from the upper directory.
    os.chown(place / "upper", info.st_uid, info.st_gid)
    (place / "upper").chmod(info.st_mode & 0o7777)
    os.utime(place / "upper", ns=(info.st_atime_ns, info.st_mtime_ns))
    options = overlay_options(
        [tree], place / "upper", place / "work", volatile=True, user=in_user_namespace()
    )
    with mounted("overlay", place / "tree", "overlay", MS_NODEV | MS_NOSUID, options):
        yield place / "tree"


def _copy(tree: Path, place: Path) -> Path:
    (place / "tree").rmdir()
    try:
        process.query(host.HERE.copy(tree, place / "tree"), timeout=3600, what="copying the tree to check it")
    except CommandFailed as error:
        raise DatasetError(error.message, detail=error.detail) from error
    return place / "tree"
