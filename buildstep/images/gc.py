"""Remove images that nobody uses any more, and what dead imports left."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from buildstep.errors import DatasetError, ImageError
from buildstep.images.record import ImageRecord, key_of
from buildstep.images.remote import sweep
from buildstep.images.store import ImageStore
from buildstep.pool.interface import Kind

_DOWNLOADS_KEPT = 7 * 86400.0
"""Seconds that an incomplete download is kept to be resumed."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What `gc` did with one thing, and why."""

    uuid: str
    name: str
    removed: bool
    reason: str


def collect(store: ImageStore, *, unused_seconds: float, dry_run: bool = False) -> list[Removal]:
    """Remove images that were not used for so long, unless an image or a build is based on them.

    What dead imports left is removed as well: downloads that were not resumed, trees without a record.
    """
    now, kept, found = time.time(), set[str](), []
    for record in _children_first(store.records()):
        age = now - store.last_used(record)
        reason = f"not used for {age / 86400:.1f} days"
        if age < unused_seconds:
            reason, removed = f"used {age / 86400:.1f} days ago", False
        elif record.uuid in kept:
            reason, removed = "an image that is kept is based on it", False
        else:
            removed, problem = _try_delete(store, record, now - unused_seconds, dry_run=dry_run)
            reason = problem or reason
        if not removed and record.origin:
            kept.add(record.origin)
        found.append(Removal(record.uuid, f"{record.name}@{record.version}", removed, reason))
    if not dry_run:
        found += _sweep(store, now)
    return found


def _try_delete(
    store: ImageStore, record: ImageRecord, unused_since: float, *, dry_run: bool
) -> tuple[bool, str]:
    if dry_run:
        return True, ""
    try:
        store.delete(record, unused_since=unused_since)
    except (ImageError, DatasetError) as error:
        return False, error.message
    return True, ""


def _sweep(store: ImageStore, now: float) -> list[Removal]:
    """Remove what dead imports left, and records whose image is gone."""
    rows = sweep(store.backend.state / "downloads", older_than=_DOWNLOADS_KEPT, now=now)
    found = [Removal("", path.name, True, "an incomplete download that was not resumed") for path in rows]
    there = set(store.backend.idents(Kind.IMAGE))
    recorded = {path.stem for path in store.folder.glob("*.json")}
    for uuid in sorted(there - recorded):
        # One whose key is locked is being imported.
        with contextlib.suppress(DatasetError, ImageError), store.locks.try_key(key_of(uuid)) as free:
            if free and not (store.folder / f"{uuid}.json").exists():
                store.remove(uuid)
                found.append(Removal(uuid, "", True, "an import that died before its record"))
    for uuid in sorted(recorded - there):
        with store.locks.try_key(key_of(uuid)) as free:
            if free and not store.backend.exists(Kind.IMAGE, uuid):
                store.remove(uuid)
    store.remove_unused_layers()
    return found


def _children_first(records: list[ImageRecord]) -> list[ImageRecord]:
    """Sort images that are based on another before it: an origin is always older, but clocks may differ."""
    known = {record.uuid: record for record in records}

    def depth(record: ImageRecord) -> int:
        count, seen = 0, {record.uuid}
        while record.origin in known and record.origin not in seen:
            record = known[record.origin]
            seen.add(record.uuid)
            count += 1
        return count

    return sorted(records, key=lambda record: (-depth(record), record.imported))
