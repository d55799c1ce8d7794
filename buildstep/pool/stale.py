"""Remove one thing that a dead build left: a mount, a folder, half-written outputs."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from buildstep.errors import BuildstepError
from buildstep.system import mount_table, mounts
from buildstep.system.locks import try_lock
from buildstep.system.remove import remove_tree

TEMPORARY = re.compile(r"\..+\.part")
"""Names that our half-written output files have: what heal may remove outside a pool."""


@dataclass(frozen=True, slots=True)
class Left:
    """One thing that a dead build left. removed: False when it could not be; problem tells why."""

    build: str
    kind: str
    name: str
    removed: bool
    problem: str = ""


def is_there(kind: str, name: str) -> bool:
    if kind == "mount":
        return os.path.realpath(name) in mount_table.mount_points(name)
    return bool(half_written(Path(name))) if kind == "outputs" else os.path.lexists(name)


def half_written(stem: Path) -> list[Path]:
    """The half-written outputs of this name, of whichever build."""
    return sorted(
        path for path in stem.parent.glob(f".{glob.escape(stem.name)}.*") if TEMPORARY.fullmatch(path.name)
    )


def output_lock(stem: Path) -> Path:
    """The file whose lock a build holds while it writes outputs of this name."""
    return stem.with_name(f".{stem.name}.lock")


def sweep_temporary(path: Path) -> Left | None:
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
    return Left("", "file", os.fspath(path), not problem, problem)


def remove_file(state: Path, build: str, kind: str, name: str) -> Left | None:
    try:
        if kind == "outputs":
            return _remove_outputs(build, Path(name))
        if kind == "mount":
            return _unmount(state, build, name)
        if kind == "folder":
            inside = Path(os.path.normpath(name)).is_relative_to(state)
            if not inside or not os.path.lexists(name):
                return None
            remove_tree(name)
        else:
            path = Path(name)
            if not TEMPORARY.fullmatch(path.name) or not os.path.lexists(path):
                return None
            if not stat.S_ISREG(os.lstat(path).st_mode):
                return Left(build, kind, name, False, "not a regular file")
            path.unlink()
    except (BuildstepError, OSError) as error:
        return Left(build, kind, name, False, str(error))
    return Left(build, kind, name, True)


def _unmount(state: Path, build: str, name: str) -> Left | None:
    """Undo a mount of a dead build; one outside of this pool's places was never ours to make."""
    where = Path(os.path.normpath(name))
    ours = any(where.is_relative_to(top) for top in (state / "mnt", state.parent / "build"))
    if not ours or not is_there("mount", name):
        return None
    mounts.unmount(where)
    if where.parent == state / "mnt":
        with contextlib.suppress(OSError):
            where.rmdir()
    return Left(build, "mount", name, True)


def _remove_outputs(build: str, stem: Path) -> Left | None:
    """Half-written files of a dead build; a live one that writes the same name holds its lock."""
    found = half_written(stem)
    lock_path = output_lock(stem)
    if not found and not lock_path.exists():
        return None
    with try_lock(lock_path) as free:
        if not free:
            return None
        # A layer in the pool is not written under that lock; its file itself is locked.
        done = [left for path in found if (left := sweep_temporary(path)) is not None]
        lock_path.unlink(missing_ok=True)
    if not done:
        return None
    problem = "; ".join(left.problem for left in done if not left.removed)
    return Left(build, "outputs", os.fspath(stem), not problem, problem)
