"""Compressed layers that other agents made, taken among those of a pool, and the facts that go with them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from buildstep.cache import records
from buildstep.cache.blob_files import (
    RECORD_FORMAT,
    BlobRecord,
    name_of,
    names_lock,
    record_path,
    stamp_of,
)
from buildstep.system.host import boot_id
from buildstep.system.locks import lock
from buildstep.system.private import private_dir

if TYPE_CHECKING:
    from buildstep.cache.remote.interface import Output, Seed

_SEEDS: Final = 3


def facts_of(path: Path) -> dict[str, Any]:
    """Return what another agent has to know of a stored layer. Raises OSError, and ValueError for a damaged
    record."""
    known = BlobRecord.read(path)
    return {
        "key": known.key,
        "digest": known.digest,
        "size": known.size,
        "diff_id": known.diff_id,
        "media_type": known.media_type,
        "brought": list(known.brought) if known.brought else None,
        "seconds": round(known.seconds, 3),
    }


def older(state: Path, start: str) -> list[Seed]:
    """Return the stored layers whose keys begin so, the newest first: what is fetched, or put there, may have
    parts of them."""
    from buildstep.cache.remote.interface import Seed

    found: list[tuple[float, Seed]] = []
    for path in (state / "blobs").glob("*.json"):
        known = records.find(BlobRecord, path, RECORD_FORMAT)
        if known is not None and known.key.startswith(start):
            with contextlib.suppress(OSError):
                found.append((path.stat().st_mtime, Seed(path.with_suffix(""), known.digest)))
    return [seed for _, seed in sorted(found, key=lambda row: -row[0])[:_SEEDS]]


def adopt(state: Path, file: Path, output: Output | None, facts: Mapping[str, Any], start: str) -> bool:
    """Take a verified file, which is moved, as the compressed layer that facts tell of.

    output: what the file is by its record; start: what its key has to begin with, so that it cannot be
    anything but what it was fetched for. False where it is not that; the file stays then. Raises OSError.
    """
    key, brought = str(facts["key"]), facts.get("brought")
    told = (facts["digest"], facts["size"], facts["media_type"])
    if output is None or told != (output.digest, output.size, output.media) or not key.startswith(start):
        return False
    folder = state / "blobs"
    private_dir(folder)
    target = folder / name_of(key)
    with lock(names_lock(folder)):
        if records.find(BlobRecord, record_path(target), RECORD_FORMAT) is not None and target.exists():
            return False
        file.rename(target)
        BlobRecord(
            digest=str(facts["digest"]), size=int(facts["size"]), diff_id=str(facts["diff_id"]),
            media_type=str(facts["media_type"]), comment="", key=key, seconds=float(facts["seconds"]),
            stamp=stamp_of(target), boot=boot_id(),
            brought=(int(brought[0]), int(brought[1]), int(brought[2])) if brought else None,
        ).save(target)  # fmt: skip
    return True
