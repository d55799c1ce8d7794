"""What a dead build can leave beside its datasets: mounts, control groups, directories, half-written outputs.

`journal` notes these things before they are acquired; `heal` finds those of dead builds and removes them.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from buildstep.errors import BuildstepError, DatasetError
from buildstep.system import cgroup, mount_table, mounts
from buildstep.system.locks import try_lock
from buildstep.system.remove import remove_tree

TEMPORARY = re.compile(r"\..+\.part")
"""Names that our half-written output files have: all that is removed outside a pool."""


class Stale(NamedTuple):
    """One thing of a build. kind: dataset, mount, cgroup, folder, outputs or, where it cannot be read, its
    journal; name: its ident or path."""

    build: str
    kind: str
    name: str


class Healed(NamedTuple):
    """A stale thing that was removed; if that failed, the problem."""

    build: str
    kind: str
    name: str
    removed: bool
    problem: str = ""


def exists(item: Stale) -> bool:
    """Say whether something other than a dataset is there."""
    match item.kind:
        case "mount":
            return os.path.realpath(item.name) in mount_table.mount_points(item.name)
        case "cgroup":
            return cgroup.exists(Path(item.name))
        case "outputs":
            return bool(_half_written(Path(item.name)))
        case "folder" | "journal":
            return os.path.lexists(item.name)
        case _:
            return False


def remove(state: Path, item: Stale) -> Healed | None:
    """Remove something other than a dataset; None if there is nothing of ours. Never raises.

    state: the pool's, outside of which a journal is not trusted with directories and mounts.
    """
    try:
        match item.kind:
            case "outputs":
                return _remove_outputs(item)
            case "mount":
                removed = _unmount(state, item)
            case "cgroup":
                removed = cgroup.remove(Path(item.name))
            case "folder" | "journal":
                removed = _remove_folder(state, item)
            case _:
                return None
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one thing, the others go
        return Healed(*item, False, said(error))
    return Healed(*item, True) if removed else None


def said(error: Exception) -> str:
    """Return why something could not be removed, and what to do, in one line."""
    if isinstance(error, BuildstepError):
        return f"{error.message} ({error.hint})" if error.hint else error.message
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return f"{type(error).__name__}: {error}"


def _remove_folder(state: Path, item: Stale) -> bool:
    if not Path(os.path.normpath(item.name)).is_relative_to(state) or not exists(item):
        return False
    remove_tree(item.name)
    return True


def _unmount(state: Path, item: Stale) -> bool:
    """Undo a mount; one outside of this pool's places was never ours to make."""
    where = Path(os.path.normpath(item.name))
    ours = any(where.is_relative_to(top) for top in (state / "mnt", state.parent / "build"))
    if not ours or not exists(item):
        return False
    mounts.unmount(where)
    if where.parent == state / "mnt":
        with contextlib.suppress(OSError):
            where.rmdir()
    return True


_TREE = re.compile(r"\..+\.[0-9]+\.[0-9]+\.part")
_OF_A_LAYOUT = {"oci-layout", "index.json", "blobs", "top"}
"""What the directory of a half-written image has in it."""


def _sweep_directory(path: Path) -> Healed | None:
    """Remove the directory of an image that was half-written, or half-removed; None if it is none of ours.
    The lock of its outputs is ours."""
    problem = ""
    if not _TREE.fullmatch(path.name) or not _OF_A_LAYOUT.issuperset(os.listdir(path)):
        return None
    try:
        remove_tree(path)
    except DatasetError as error:
        problem = said(error)
    return Healed("", "folder", os.fspath(path), not problem, problem)


def _remove_outputs(item: Stale) -> Healed | None:
    """Remove half-written files; a live build that writes outputs of the same name holds their lock."""
    stem = Path(item.name)
    lock_path = output_lock(stem)
    found = _half_written(stem)
    if not found and not lock_path.exists():
        return None
    with try_lock(lock_path) as free:
        if not free:
            return None
        # A layer in the pool is not written under that lock; its file itself is locked.
        done = [healed for path in found if (healed := _sweep_output(path)) is not None]
        lock_path.unlink(missing_ok=True)
    problem = "; ".join(healed.problem for healed in done if not healed.removed)
    return Healed(*item, not problem, problem) if done else None


def sweep_outputs(stem: Path) -> None:
    """Remove half-written outputs of this name that no living process has locked. Their lock is ours."""
    for path in _half_written(stem):
        _sweep_output(path)


def _sweep_output(path: Path) -> Healed | None:
    """Remove a half-written output, a file or a directory."""
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            return _sweep_directory(path)
    return sweep_temporary(path)


def _half_written(stem: Path) -> list[Path]:
    """Return the half-written outputs of this name, of whichever build."""
    return sorted(
        path for path in stem.parent.glob(f".{glob.escape(stem.name)}.*") if TEMPORARY.fullmatch(path.name)
    )


def output_lock(stem: Path) -> Path:
    """Return the file whose lock a build holds while it writes outputs of this name."""
    return stem.with_name(f".{stem.name}.lock")


def sweep_temporary(path: Path) -> Healed | None:
    """Remove a half-written file of `files.atomic_write` unless its writer lives and has it locked."""
    problem = ""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        with try_lock(path, create=False) as abandoned:
            if not abandoned:
                return None
            try:
                path.unlink()
            except PermissionError as error:
                problem = str(error)
    except OSError:
        return None
    return Healed("", "file", os.fspath(path), not problem, problem)
