"""The write-ahead journal of a build, and `heal`, which removes what a dead build left.

    state/journal/BUILD-ID.jsonl    a head (who), then a line before each thing that is acquired

The file is locked (flock) for as long as the build lives: the kernel drops the lock with the process, so
a journal that can be locked belongs to nobody any more, whatever its pid has become since.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from buildstep.errors import BuildstepError
from buildstep.interfaces import Backend, Kind
from buildstep.system import mounts
from buildstep.system.locks import take_lock
from buildstep.system.remove import remove_tree

SUFFIX = ".jsonl"
_RECORDS = ("images", "layers", "blobs", "kept", "artifacts", "index", "resolved")
"""The folders of a pool's state that hold files written by `fsutil.atomic_write`."""
TEMPORARY = re.compile(r"\..+\.part")
"""Names that our half-written output files have: what heal may remove outside a pool."""


class Journal:
    """What one build has acquired, written down before it is acquired."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.ident = path.name.removesuffix(SUFFIX)
        self._fd = fd

    def _write(self, record: dict[str, object]) -> None:
        os.write(self._fd, json.dumps(record).encode() + b"\n")

    def dataset(self, ident: str) -> str:
        """Note a working dataset; its name must start with the build's id."""
        assert ident.startswith(self.ident)
        self._write({"acquire": "dataset", "ident": ident})
        return ident

    def file(self, path: Path) -> Path:
        """Note a temporary file."""
        assert TEMPORARY.fullmatch(path.name), path
        self._write({"acquire": "file", "path": os.fspath(path.absolute())})
        return path

    def mount(self, target: Path) -> None:
        """Note a mount that would outlive us: only where a build has no mount namespace."""
        self._write({"acquire": "mount", "path": os.fspath(target.absolute())})

    def outputs(self, stem: Path) -> None:
        """Note that half-written outputs of this name (`bits/hello/hello-1.0.0`) may come to be."""
        self._write({"acquire": "outputs", "path": os.fspath(stem.absolute())})

    def folder(self, path: Path) -> Path:
        """Make a folder of the pool's state for the length of the build."""
        self._write({"acquire": "folder", "path": os.fspath(path.absolute())})
        path.mkdir(parents=True)
        return path


@contextlib.contextmanager
def open_journal(state: Path, what: str) -> Iterator[Journal]:
    """A journal for the length of a build; it goes when the build has undone everything itself."""
    ident = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
    path = state / "journal" / f"{ident}{SUFFIX}"
    fd = take_lock(path)
    try:
        journal = Journal(path, fd)
        journal._write(
            {"format": 1, "id": ident, "what": what, "pid": os.getpid(), "time": time.time(), **_owner()}
        )
        with mounts.noted(journal.mount):
            yield journal
        path.unlink(missing_ok=True)
    except BaseException:
        # A signal can come between an act and the taking down of its undo. Working datasets that are left
        # stay for `heal`, which finds them without a journal.
        files = [item for item in _acquired(path) if item[0] != "dataset"]
        for kind, name in files:
            _remove_file(state, ident, kind, name)
        if not any(_is_there(kind, name) for kind, name in files):
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _owner() -> dict[str, object]:
    """Who we are, for a person who reads the journal; liveness is decided by the lock alone."""
    owner: dict[str, object] = {"uid": os.getuid()}
    with contextlib.suppress(OSError):
        owner["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        owner["started"] = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return owner


@dataclass(frozen=True, slots=True)
class Left:
    """One thing that a dead build left. removed: False when it could not be; problem tells why."""

    build: str
    kind: str
    name: str
    removed: bool
    problem: str = ""


def leftovers(backend: Backend) -> list[tuple[str, str, str]]:
    """(build, kind, name) of everything that dead builds left; nothing is changed."""
    found = []
    live = set()
    for path in _journals(backend.state):
        try:
            fd = take_lock(path, wait=False)
        except BlockingIOError:
            live.add(path.name.removesuffix(SUFFIX))
            continue
        try:
            found += [(path.name.removesuffix(SUFFIX), kind, name) for kind, name in _acquired(path)]
        finally:
            os.close(fd)
    known = {name for _, kind, name in found if kind == "dataset"}
    there = set(backend.idents(Kind.BUILD)) - kept(backend)
    for ident in sorted(there - known):
        if not any(ident.startswith(build) for build in live):
            found.append((ident, "dataset", ident))
    return [
        item for item in found if (item[2] in there if item[1] == "dataset" else _is_there(item[1], item[2]))
    ]


def _is_there(kind: str, name: str) -> bool:
    if kind == "mount":
        return os.path.realpath(name) in mounts.mount_points(name)
    return bool(half_written(Path(name))) if kind == "outputs" else os.path.lexists(name)


def half_written(stem: Path) -> list[Path]:
    """The half-written outputs of this name, of whichever build."""
    return sorted(
        path for path in stem.parent.glob(f".{glob.escape(stem.name)}.*") if TEMPORARY.fullmatch(path.name)
    )


def output_lock(stem: Path) -> Path:
    """The file whose lock a build holds while it writes outputs of this name."""
    return stem.with_name(f".{stem.name}.lock")


def keep(backend: Backend, ident: str) -> None:
    """Mark a failed build's dataset as kept for a person to look at; `heal` passes it by."""
    folder = backend.state / "kept"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ident).touch()


def kept(backend: Backend) -> set[str]:
    """The datasets that were kept on purpose."""
    try:
        return set(os.listdir(backend.state / "kept"))
    except FileNotFoundError:
        return set()


def drop_kept(backend: Backend) -> list[Left]:
    """Remove what was kept."""
    report = []
    for ident in sorted(kept(backend)):
        left = _remove(backend, ident, "dataset", ident)
        if left is None or left.removed:
            (backend.state / "kept" / ident).unlink(missing_ok=True)
        if left is not None:
            report.append(left)
    return report


def heal(backend: Backend) -> list[Left]:
    """Remove what dead builds left in this pool. Safe beside live builds: theirs are locked."""
    report: list[Left] = []
    # Working datasets are listed before the journals are tried: one that is made meanwhile is not in
    # the list, and the journal of one that is in it existed, locked, before the dataset did.
    spared = kept(backend)
    orphans = [ident for ident in backend.idents(Kind.BUILD) if ident not in spared]
    live: set[str] = set()
    for path in _journals(backend.state):
        build = path.name.removesuffix(SUFFIX)
        try:
            fd = take_lock(path, wait=False)
        except BlockingIOError:
            live.add(build)
            continue
        try:
            acquired = [item for item in _acquired(path) if item[1] not in spared]
            done = [_remove(backend, build, kind, name) for kind, name in acquired]
            report += [left for left in done if left is not None]
            if all(left is None or left.removed for left in done):
                path.unlink(missing_ok=True)
        finally:
            os.close(fd)
    for ident in orphans:
        if not any(ident.startswith(build) for build in live):
            left = _remove(backend, ident, "dataset", ident)
            if left is not None:
                report.append(left)
    return report + [left for path in _half_records(backend.state) if (left := _sweep(path)) is not None]


def _half_records(state: Path) -> list[Path]:
    """Half-written files of the pool's own records, of live builds and of dead ones."""
    folders = [state, *(path for path in state.glob("*") if path.is_dir() and path.name in _RECORDS)]
    return sorted(
        path for folder in folders for path in folder.glob(".*.part") if TEMPORARY.fullmatch(path.name)
    )


def _sweep(path: Path) -> Left | None:
    """Remove a half-written file of `fsutil.atomic_write` unless its writer lives and has it locked."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except (BlockingIOError, FileNotFoundError):
        return None
    except OSError as error:
        return Left("", "file", os.fspath(path), False, str(error))
    finally:
        os.close(fd)
    return Left("", "file", os.fspath(path), True)


def _journals(state: Path) -> list[Path]:
    return sorted((state / "journal").glob(f"*{SUFFIX}"))


def _acquired(path: Path) -> list[tuple[str, str]]:
    found = []
    for row in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a torn last line was never acted on
            record = json.loads(row)
            kind = record["acquire"]
            found.append((kind, record["ident"] if kind == "dataset" else record["path"]))
    return found[::-1]


def _remove(backend: Backend, build: str, kind: str, name: str) -> Left | None:
    if kind != "dataset":
        return _remove_file(backend.state, build, kind, name)
    try:
        if not backend.exists(Kind.BUILD, name):
            return None
        backend.destroy(Kind.BUILD, name)
    except (BuildstepError, OSError) as error:
        return Left(build, kind, name, False, str(error))
    return Left(build, kind, name, True)


def _remove_file(state: Path, build: str, kind: str, name: str) -> Left | None:
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
    if not ours or not _is_there("mount", name):
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
    try:
        fd = take_lock(lock_path, wait=False)
    except BlockingIOError:
        return None
    try:
        # A layer in the pool is not written under that lock; its file itself is locked.
        done = [left for path in found if (left := _sweep(path)) is not None]
        lock_path.unlink(missing_ok=True)
    finally:
        os.close(fd)
    if not done:
        return None
    problem = "; ".join(left.problem for left in done if not left.removed)
    return Left(build, "outputs", os.fspath(stem), not problem, problem)
