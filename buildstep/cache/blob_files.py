"""The files of one compressed layer of a pool: its record, its names, and how it is removed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from buildstep.cache import records
from buildstep.system.digest import sha256_file
from buildstep.system.files import stamp
from buildstep.system.locks import lock, try_lock

RECORD_FORMAT = 1
"""Of the records."""

BASE = "base layer "
"""How the keys of layers begin that came with a base image: `cache.base_layers`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlobRecord:
    """What is known of a stored layer. digest, size, diff_id, media_type, comment: see `emit.interface.Blob`.

    brought: what it holds, None in an older record. seconds: the time to make it. stamp: what lstat said of
    the file when its content was last known to be good (`system.files.stamp`, without the device, whose
    number may change); boot: the boot id of that time.
    """

    digest: str
    size: int
    diff_id: str
    media_type: str
    comment: str
    key: str
    seconds: float
    stamp: tuple[int, ...]
    boot: str
    brought: tuple[int, int, int] | None = None

    @classmethod
    def read(cls, path: Path) -> BlobRecord:
        """Return the record of a stored layer. Raises OSError, and ValueError for a damaged one."""
        return records.read(cls, record_path(path), RECORD_FORMAT)

    def save(self, path: Path) -> None:
        records.save(record_path(path), self, RECORD_FORMAT)

    def damage(self, path: Path) -> str:
        """Read the layer and return what is wrong with it; empty if nothing is. Raises OSError."""
        size = path.stat().st_size
        if size != self.size:
            return "cut short" if size < self.size else "too long"
        return "" if sha256_file(path) == self.digest else "damaged"


def record_path(path: Path) -> Path:
    """Return where the record of a stored layer is."""
    return path.with_name(path.name + ".json")


def chunks_path(path: Path) -> Path:
    """Return where the chunks of a stored layer are."""
    return path.with_name(path.name + ".parts")


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the files of a stored layer, its own last; some may be missing."""
    return record_path(path), chunks_path(path), path


def names_lock(folder: Path) -> Path:
    """Return the lock file of the moment in which a layer in this folder gets its name or is removed."""
    return folder.parent / "locks" / "blob-names.lock"


def try_remove(path: Path, *, unused_since: float | None = None) -> bool:
    """Remove a stored layer unless a build uses it. Returns whether it is gone.

    unused_since: not if it was used after that time (seconds since 1970).
    """
    try:
        with lock(names_lock(path.parent)), try_lock(path, create=False) as unused:
            if unused and not _used_since(path, unused_since):
                remove(path)
    except OSError:
        return False
    return not path.exists()


def _used_since(path: Path, since: float | None) -> bool:
    if since is None:
        return False
    try:
        return record_path(path).stat().st_mtime > since
    except FileNotFoundError:
        return False


def remove(path: Path) -> None:
    """Remove a stored layer, its record first. `names_lock` is held."""
    for item in files_of(path):
        item.unlink(missing_ok=True)


def stamp_of(path: Path) -> tuple[int, ...]:
    """Return what `BlobRecord.stamp` holds of a file."""
    return tuple(stamp(path)[1:])


def name_of(key: str) -> str:
    """Return the file name of the layer with a key."""
    return hashlib.sha256(os.fsencode(key)).hexdigest()  # it has a path, in any encoding
