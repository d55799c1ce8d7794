"""The layers of base images as they came, byte for byte: images made from a base have them as well.

They lie among the compressed layers of a pool, under the digest that the base has for them. A layer stays as
long as an image in the store has it: `cache.prune` leaves it out, as it cannot be made again here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from buildstep.cache import records
from buildstep.cache.blob_files import (
    BASE,
    RECORD_FORMAT,
    BlobRecord,
    name_of,
    names_lock,
    protect,
    record_path,
    try_remove,
)
from buildstep.cache.blobs import BlobStore
from buildstep.emit.interface import Blob
from buildstep.system.files import Slice, copy_range
from buildstep.system.locks import lock
from buildstep.system.private import private_dir
from buildstep.tree.diff import Brought


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseLayer:
    """A layer of a base image. digest, diff_id: hex SHA-256 of its file and of its uncompressed tar.

    media_type: in OCI's words. brought: what it changes of the layers below it, None where that was not
    counted; packages: what it installs, as `NAME VERSION`.
    """

    digest: str
    size: int
    media_type: str
    diff_id: str
    brought: Brought | None = field(default=None, compare=False)
    packages: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> BaseLayer:
        """Return the layer of which a record has these fields. Raises TypeError."""
        brought = row.get("brought")
        counted = Brought(*brought) if brought is not None else None
        return cls(**{**row, "brought": counted, "packages": tuple(row.get("packages", ()))})


def keep(state: Path, layer: BaseLayer, place: Slice, *, own: bool) -> None:
    """Take a layer into a pool. Its content was verified. Raises OSError.

    own: the file holds nothing else, lies in this pool and may be moved.
    """
    if is_there(state, layer):
        return
    folder = state / "blobs"
    private_dir(folder)
    target, new = _path(state, layer), folder / name_of(f"new {secrets.token_hex(16)}")
    try:
        if own:
            place.path.rename(new)
        else:
            _copy(place, new)
        protect(new)
        with lock(names_lock(folder)):
            new.rename(target)
            BlobRecord(
                digest=layer.digest, size=layer.size, diff_id=layer.diff_id, media_type=layer.media_type,
                comment="", key=BASE + layer.digest, seconds=0.0, stamp=(), boot="",
            ).seen(target).save(target)  # fmt: skip
    finally:
        new.unlink(missing_ok=True)


def is_there(state: Path, layer: BaseLayer) -> bool:
    """Say whether a pool has a layer, by its record and its size. Reads nothing of it."""
    path = _path(state, layer)
    known = records.find(BlobRecord, record_path(path), RECORD_FORMAT)
    with contextlib.suppress(OSError):
        return known is not None and known.digest == layer.digest and path.stat().st_size == layer.size
    return False


def find(blobs: BlobStore, layers: Sequence[BaseLayer], about: str) -> list[Blob] | None:
    """Return the layers, lowest first, locked for as long as the store is open.

    None where one is gone or damaged; that is noted, and it is removed, so that its image is imported again.
    """
    found = []
    for number, layer in enumerate(layers, 1):
        comment = f"{about}, layer {number} of {len(layers)}" if len(layers) > 1 else about
        blob = blobs.find(name_of(BASE + layer.digest), comment)
        if blob is None:
            blobs.drop(blobs.folder / name_of(BASE + layer.digest))
            return None
        found.append(replace(blob, brought=layer.brought))
    return found


def remove_unused(state: Path, wanted: Collection[str]) -> None:
    """Remove the layers of base images whose digest is not among these, but those that a build uses."""
    for path in (state / "blobs").glob("*.json"):
        known = records.find(BlobRecord, path, RECORD_FORMAT)
        if known is not None and known.key.startswith(BASE) and known.digest not in wanted:
            try_remove(path.with_suffix(""))


@contextlib.contextmanager
def opened(state: Path, layer: BaseLayer) -> Iterator[IO[bytes]]:
    """Open the file of a layer that a pool has. Raises OSError."""
    with _path(state, layer).open("rb") as stream:
        yield stream


def _path(state: Path, layer: BaseLayer) -> Path:
    return state / "blobs" / name_of(BASE + layer.digest)


def _copy(place: Slice, target: Path) -> None:
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with place.path.open("rb") as source:
            os.lseek(source.fileno(), place.offset, os.SEEK_SET)
            copy_range(source.fileno(), fd, place.size)
    finally:
        os.close(fd)
