"""The files of one compressed layer of a pool: its record, its names, and how it is removed."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from buildstep.cache import records
from buildstep.formats.codecs import check_of
from buildstep.system.digest import sha256_file
from buildstep.system.files import stamp
from buildstep.system.host import boot_id
from buildstep.system.locks import lock, try_lock
from buildstep.system.share import may_link

RECORD_FORMAT = 1
"""Of the records."""

BASE = "base layer "
"""How the keys of layers begin that came with a base image: `cache.base_layers`."""


PIECE: Final = 64 << 10
"""Bytes of a layer that one checksum is of."""

SAMPLE, LARGER_SAMPLE = 4, 64
"""Pieces of a layer that are compared before it is used: where nothing touched its file, and where names of
the file came or went."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlobRecord:
    """What is known of a stored layer. digest, size, diff_id, media_type, comment: see `emit.interface.Blob`.

    brought: what it holds, None in an older record. seconds: the time to make it. stamp: what lstat said of
    the file when its content was last known to be good (`system.files.stamp`, without the device, whose
    number may change); boot: the boot id of that time. links: how many names the file had then; sums: the
    CRC-32 of each piece of it (RFC 1952), little-endian, in base64; empty in an older record.
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
    links: int = 1
    sums: str = ""

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

    def known(self, path: Path) -> bool:
        """Tell whether a layer is as it was when its content was last known to be good. Raises OSError.

        Nothing touched its file since, and some pieces of it, others each time, are what they were. An image
        that is a directory can have a second name of the file. Where it has or had one, such names come and
        go, which the ctime does not tell from other things: then more pieces are compared.

        This is against files that were cut, replaced, mixed up or lost with a disk. A single rotten block is
        found sooner or later, and by whoever unpacks or receives the layer, as its digest tells. Who can
        write to the pool is kept from nothing: he can write the record as well.
        """
        info = path.lstat()
        now = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        if not self.sums or self.boot != boot_id() or now[:3] != self.stamp[:3]:
            return False
        if now == self.stamp:
            return self._sampled(path, SAMPLE)
        named = info.st_nlink > 1 or self.links > 1
        return named and may_link(info) and self._sampled(path, LARGER_SAMPLE)

    def _sampled(self, path: Path, count: int) -> bool:
        """Compare pieces of a layer: the first, the last, and others by chance."""
        sums = _unpacked(self.sums)
        if len(sums) != -(-self.size // PIECE):
            return False
        last = len(sums) - 1
        wanted = {0, last} | set(random.sample(range(len(sums)), min(len(sums), count - 2)))
        with path.open("rb", buffering=0) as file:
            return all(
                check_of(os.pread(file.fileno(), PIECE, number * PIECE)) == sums[number]
                for number in sorted(wanted)
            )

    def seen(self, path: Path) -> BlobRecord:
        """Return the record of a layer that is known to be good now. Raises OSError."""
        sums = self.sums or sums_of(path)
        return replace(self, stamp=stamp_of(path), boot=boot_id(), links=path.lstat().st_nlink, sums=sums)

    def renamed(self, path: Path) -> BlobRecord | None:
        """Return the record of a layer in use whose file got or lost names, and nothing else; else None.

        Raises OSError.
        """
        info = path.lstat()
        same = (info.st_ino, info.st_size, info.st_mtime_ns) == self.stamp[:3] and may_link(info)
        return self.seen(path) if same else None


def sums_of(path: Path) -> str:
    """Return the checksums of a layer's pieces, as its record has them. Raises OSError."""
    sums = array("I")
    with path.open("rb", buffering=0) as file:
        piece = bytearray(PIECE)
        view = memoryview(piece)
        while have := file.readinto(piece):
            while have < PIECE and (more := file.readinto(view[have:])):
                have += more
            sums.append(check_of(view[:have]))
    if sys.byteorder == "big":
        sums.byteswap()
    return base64.b64encode(sums.tobytes()).decode()


def _unpacked(text: str) -> Sequence[int]:
    sums = array("I", base64.b64decode(text))
    if sys.byteorder == "big":
        sums.byteswap()
    return sums


def protect(path: Path) -> None:
    """Let nobody write to a layer's file any more. Others than its owner do not read it either, until an
    image that is a directory has it. Raises OSError."""
    mode = path.lstat().st_mode
    if mode & 0o222:
        path.chmod(mode & 0o555)


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
