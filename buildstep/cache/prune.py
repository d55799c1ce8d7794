"""List what a pool keeps to be quick, and remove what was not used for longest.

Layers, compressed layers, indexes of proto directories, resolutions, notes of outputs, package lists,
downloaded packages and the caches of commands.
Each goes by when it was last used, and none while a build uses it. All of it can be made again: a build that
misses something takes longer, and gives the same image.

What a build uses for longer than it takes to read is locked (shared) before the build looks whether it is
there and good: layers, compressed layers, base images. Whoever removes such a thing locks it exclusively,
without waiting, and looks again whether it is unused and as it was. What is read at once (indexes,
resolutions, notes of outputs, trees) is read as it is or not at all: a removal meanwhile is as good as one
before. The order of the locks is in `docs/explanation/how-it-works.md`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from buildstep.cache import blob_files, step_caches
from buildstep.cache.layers import LayerCache
from buildstep.pool.interface import Kind
from buildstep.system.locks import try_lock
from buildstep.system.remove import remove_tree

DEFAULT_BYTES = 20 << 30
DEFAULT_INODES = 1_000_000
_HOUR = 3600.0
_DAY = 86400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much a pool may keep; 0: no limit. keep_seconds: what was not used for so long goes in any case."""

    bytes: int = 0
    inodes: int = 0
    keep_seconds: float | None = None

    @classmethod
    def of(cls, state: Path, *, max_bytes: int | None, max_inodes: int | None) -> Limits:
        """Return the limits given, else the default ones, which are at most a third of the file system."""
        if max_bytes is None:
            max_bytes = DEFAULT_BYTES
            with contextlib.suppress(OSError):
                info = os.statvfs(state)
                max_bytes = min(max_bytes, info.f_blocks * info.f_frsize // 3)
        return cls(bytes=max_bytes, inodes=DEFAULT_INODES if max_inodes is None else max_inodes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing that is kept. used: when it was last used, 0 for what can never be used again; seconds: what
    it costs to make it again, if that is known."""

    kind: str
    name: str
    about: str
    size: int
    inodes: int
    used: float
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def items(cache: LayerCache) -> list[Item]:
    """Return everything that is kept, what was not used for longest first."""
    state = cache.backend.state
    found = [*_layers(cache), *_blobs(state), *_small(state), *_packages(state), *_of_commands(state)]
    return sorted(found, key=lambda item: (item.used, item.kind, item.name))


def _layers(cache: LayerCache) -> Iterator[Item]:
    records = {record.key: record for record in cache.records()}
    for record in records.values():
        yield Item(
            kind="layer", name=record.key, about=record.slot, size=record.size, inodes=record.inodes,
            used=cache.last_used(record.key), seconds=record.seconds,
        )  # fmt: skip
    for key in cache.backend.idents(Kind.LAYER):
        if key not in records:
            yield Item(kind="layer", name=key, about="not usable any more", size=0, inodes=1, used=0.0)


def _blobs(state: Path) -> Iterator[Item]:
    for path in _files(state / "blobs"):
        if path.suffix:
            continue
        with contextlib.suppress(OSError):
            files = [item.stat().st_size for item in blob_files.files_of(path) if item.exists()]
            used, about, seconds = 0.0, "without a record", 0.0
            with contextlib.suppress(OSError, ValueError):
                record = blob_files.BlobRecord.read(path)
                used = blob_files.record_path(path).stat().st_mtime
                about, seconds = record.comment, record.seconds
                if record.key.startswith(blob_files.BASE):
                    continue  # it is a part of its image, and goes with it
            # Between its name and its record it belongs to a build that is writing it.
            if used or time.time() - path.stat().st_mtime > _HOUR:
                yield Item(
                    kind="blob", name=path.name, about=about, size=sum(files), inodes=len(files), used=used,
                    seconds=seconds,
                )  # fmt: skip


_SMALL = (
    ("shape", "blobs", (".shape", ".last")),
    ("index", "index", (".idx",)),
    ("answer", "resolved", (".json",)),
    ("outputs", "artifacts", (".json",)),
    ("tree", "artifacts", (".bin",)),
)
"""Kinds of small files: name, directory and suffixes."""


def _small(state: Path) -> Iterator[Item]:
    for kind, directory, suffixes in _SMALL:
        for path in _files(state / directory):
            if path.suffix in suffixes:
                info = path.stat()
                yield _file(kind, path, info, used=info.st_mtime)


def _packages(state: Path) -> Iterator[Item]:
    """What apt keeps; nothing of pkgsrc's is kept."""
    cache = state / "packages/apt"
    if not cache.exists():
        return
    from buildstep.rootfs.installers import apt_archives, apt_sweep

    for path in apt_archives.kept_files(cache):
        with contextlib.suppress(FileNotFoundError):
            info = path.stat()
            yield _file("package", path, info, about=path.name.rpartition(".")[0], used=info.st_mtime)
    for folder in apt_sweep.kept_lists(cache):
        used, sizes = 0.0, []
        with contextlib.suppress(FileNotFoundError):
            sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
            used = (folder / "record").stat().st_mtime
        yield Item(
            kind="lists", name=os.fspath(folder), about="package lists", size=sum(sizes), inodes=len(sizes),
            used=used,
        )  # fmt: skip


def _of_commands(state: Path) -> Iterator[Item]:
    for place, record in step_caches.kept(state):
        yield Item(
            kind="cache", name=os.fspath(place), about=f"{record.component} {record.path}", size=record.size,
            inodes=record.inodes, used=record.used,
        )  # fmt: skip


def _file(kind: str, path: Path, info: os.stat_result, *, used: float, about: str = "") -> Item:
    return Item(kind=kind, name=os.fspath(path), about=about, size=info.st_size, inodes=1, used=used)


def _files(folder: Path) -> list[Path]:
    """Return the files of a directory, without those that are being written."""
    with contextlib.suppress(FileNotFoundError):
        return [folder / name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    return []


# -- removing ------------------------------------------------------------------------------------------------


def prune(cache: LayerCache, limits: Limits | None = None) -> list[Item]:
    """Remove what was not used for longest until the rest keeps the limits; without limits, all of it.

    What a build uses stays. Returns what was removed.
    """
    found = items(cache)
    size, inodes = sum(item.size for item in found), sum(item.inodes for item in found)
    now = time.time()
    removed: list[Item] = []
    # A layer that another one is based on goes after that one: try again as long as something went.
    before = -1
    while before < len(removed):
        before = len(removed)
        for item in [item for item in found if item not in removed]:
            if item.used and limits is not None:
                over = (limits.bytes and size > limits.bytes) or (limits.inodes and inodes > limits.inodes)
                old = limits.keep_seconds is not None and now - item.used > limits.keep_seconds
                if not over and not old:
                    continue
            if _remove(cache, item):
                removed.append(item)
                size, inodes = size - item.size, inodes - item.inodes
    _sweep_locks(cache.backend.state / "locks")
    return removed


def keep_within(cache: LayerCache, limits: Limits) -> list[Item]:
    """Prune after a build that kept something, unless another build is pruning."""
    with try_lock(cache.backend.state / "locks" / "prune.lock") as free:
        return prune(cache, limits) if free else []


def _remove(cache: LayerCache, item: Item) -> bool:
    """Remove an item unless a build uses it. Returns whether it is gone."""
    if item.kind == "layer":
        return cache.try_discard(item.name, unused_since=item.used)
    state = cache.backend.state
    path, guard = Path(item.name), None
    if item.kind == "blob":
        return blob_files.try_remove(state / "blobs" / item.name, unused_since=item.used)
    if item.kind in ("package", "lists"):
        guard = state / "packages" / path.relative_to(state / "packages").parts[0] / "lock"
    elif item.kind in ("index", "cache"):
        guard = path.with_suffix(".lock")
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        if guard is None or stack.enter_context(try_lock(guard)):
            if _used_since(path, item):
                return False
            if item.kind == "lists":
                remove_tree(path)
            elif item.kind == "cache":
                step_caches.remove(path)
            else:
                path.unlink()
            return True
    return False


def _used_since(path: Path, item: Item) -> bool:
    """Whether a file was used since it was found."""
    if item.kind == "cache":
        found = dict(step_caches.kept(path.parents[1])).get(path)
        return found is not None and found.used > item.used
    marker = path / "record" if item.kind == "lists" else path
    return marker.exists() and marker.stat().st_mtime > item.used


def _sweep_locks(folder: Path) -> None:
    """Remove lock files that are a day old; a process that waits for one notices, and takes a new one."""
    for path in _files(folder):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime < _DAY or path.name == "prune.lock":
                continue
            with try_lock(path, create=False) as free:
                if free:
                    path.unlink()
