"""What a pool keeps to be quick: how much of it there is, and which of it goes when it is too much.

Layers, compressed layers, indexes of proto directories, answers of repositories, notes of outputs, and
downloaded packages. Each goes by when it was last of use, and none while a build uses it. All of it can be
made again: a build that misses something takes longer, and gives the same image.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from buildstep.cache import blobs
from buildstep.cache.layers import LayerCache
from buildstep.pool.interface import Kind
from buildstep.system.files import read_json
from buildstep.system.locks import try_lock

DEFAULT_BYTES = 20 << 30
DEFAULT_INODES = 1_000_000
_HOUR = 3600.0
_DAY = 86400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much a pool may keep. 0: no limit. keep_seconds: what was of no use for so long goes
    in any case."""

    bytes: int = 0
    inodes: int = 0
    keep_seconds: float | None = None

    @classmethod
    def of(cls, state: Path, *, max_bytes: int | None, max_inodes: int | None) -> Limits:
        """The limits that were given, else the default ones: no more than a third of the file system."""
        if max_bytes is None:
            max_bytes = DEFAULT_BYTES
            with contextlib.suppress(OSError):
                info = os.statvfs(state)
                max_bytes = min(max_bytes, info.f_blocks * info.f_frsize // 3)
        return cls(bytes=max_bytes, inodes=DEFAULT_INODES if max_inodes is None else max_inodes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing that is kept. used: when it was last of use, 0 for what can never be again; seconds: what
    it costs to make it again, as far as that is known."""

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
    """Everything that is kept, what was of use longest ago first."""
    state = cache.backend.state
    found = [*_layers(cache), *_blobs(state), *_small(state), *_downloads(state)]
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
            yield Item(kind="layer", name=key, about="of no use any more", size=0, inodes=1, used=0.0)


def _blobs(state: Path) -> Iterator[Item]:
    for path in _files(state / "blobs"):
        if path.suffix:
            continue
        with contextlib.suppress(OSError):
            files = [item.stat().st_size for item in blobs.files_of(path) if item.exists()]
            used, about, seconds = 0.0, "without a record", 0.0
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                record = path.with_name(path.name + ".json")
                found = read_json(record)
                about, seconds, used = found["comment"], found["seconds"], record.stat().st_mtime
            # Between its name and its record it belongs to a build that is writing it.
            if used or time.time() - path.stat().st_mtime > _HOUR:
                yield Item(
                    kind="blob", name=path.name, about=about, size=sum(files), inodes=len(files), used=used,
                    seconds=seconds,
                )  # fmt: skip
    for path in _files(state / "blobs"):
        if path.suffix in (".shape", ".last"):
            yield _file("shape", path, "")


def _small(state: Path) -> Iterator[Item]:
    for kind, folder, suffix in (
        ("index", "index", ".idx"),
        ("answer", "resolved", ".json"),
        ("outputs", "artifacts", ".json"),
        ("tree", "artifacts", ".bin"),
    ):
        for path in _files(state / folder):
            if path.suffix == suffix:
                yield _file(kind, path, "")


def _downloads(state: Path) -> Iterator[Item]:
    for path in (state / "packages").glob("*/archives/*.deb"):
        yield _file("download", path, path.name, accessed=True)
    for path in (state / "packages").glob("*/pkgin/*/*"):
        if path.is_file():
            yield _file("download", path, path.name, accessed=True)


def _file(kind: str, path: Path, about: str, *, accessed: bool = False) -> Item:
    info = path.stat()
    used = max(info.st_atime, info.st_ctime) if accessed else info.st_mtime
    return Item(kind=kind, name=os.fspath(path), about=about, size=info.st_size, inodes=1, used=used)


def _files(folder: Path) -> list[Path]:
    """The files of a folder, without those that are being written."""
    with contextlib.suppress(FileNotFoundError):
        return [folder / name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    return []


# -- removing ------------------------------------------------------------------------------------------------


def prune(cache: LayerCache, limits: Limits | None = None) -> list[Item]:
    """Remove what was of use longest ago until the rest keeps the limits; all that may go if there are none.

    Returns what went. What a build uses stays.
    """
    found = items(cache)
    size, inodes = sum(item.size for item in found), sum(item.inodes for item in found)
    now = time.time()
    removed: list[Item] = []
    # A layer that another one stands on goes after that one: it is tried again as long as something went.
    went = -1
    while went < len(removed):
        went = len(removed)
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
    """After a build that kept something: `prune`, unless another build is at it."""
    with try_lock(cache.backend.state / "locks" / "prune.lock") as free:
        return prune(cache, limits) if free else []


def _remove(cache: LayerCache, item: Item) -> bool:
    if item.kind == "layer":
        return cache.try_discard(item.name)
    state = cache.backend.state
    with contextlib.suppress(OSError):
        if item.kind == "blob":
            return _remove_blob(state / "blobs" / item.name)
        if item.kind == "download":
            held = Path(item.name).relative_to(state / "packages").parts[0]
            return _with_lock(state / "packages" / held / "lock", Path(item.name).unlink)
        if item.kind == "index":
            path = Path(item.name)
            return _with_lock(path.with_suffix(".lock"), path.unlink)
        Path(item.name).unlink()
        return True
    return False


def _remove_blob(path: Path) -> bool:
    """Remove a compressed layer unless a build holds it."""
    with try_lock(path, create=False) as unused:
        if unused:
            blobs.remove(path)
        return unused


def _with_lock(path: Path, act: Callable[[], None]) -> bool:
    with try_lock(path) as free:
        if free:
            act()
        return free


def _sweep_locks(folder: Path) -> None:
    """Remove lock files of what is long gone; who waits for one notices, and takes a new one."""
    for path in _files(folder):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime < _DAY or path.name == "prune.lock":
                continue
            with try_lock(path, create=False) as free:
                if free:
                    path.unlink()


# -- proving ----------------------------------------------------------------------------------------------


def verify(cache: LayerCache) -> list[dict[str, str]]:
    """Read all that is kept and compare it with its digests; what is damaged is removed and told."""
    damaged = cache.verify()
    state = cache.backend.state
    for path in _files(state / "blobs"):
        record = path.with_name(path.name + ".json")
        if path.suffix or not record.exists():
            continue
        try:
            found = read_json(record)
            problem, about = blobs.damage(path, found), found["comment"]
        except FileNotFoundError:
            continue  # pruned meanwhile
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem, about = f"its record cannot be read: {error}", ""
        if problem:
            with contextlib.suppress(OSError):
                blobs.remove(path)
            damaged.append({"kind": "blob", "key": path.name, "slot": about, "problem": problem})
    for kind, folder in (("answer", "resolved"), ("outputs", "artifacts")):
        for path in _files(state / folder):
            problem = "" if path.suffix != ".json" else _unreadable(path)
            if problem:
                with contextlib.suppress(OSError):
                    path.unlink()
                damaged.append({"kind": kind, "key": path.stem, "slot": "", "problem": problem})
    return damaged


def _unreadable(path: Path) -> str:
    try:
        known = isinstance(read_json(path), dict)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return f"cannot be read: {error}"
    return "" if known else "is not a record"
