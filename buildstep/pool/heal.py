"""Find and remove what dead builds left in a pool."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from buildstep.pool import stale
from buildstep.pool.interface import Backend, Kind
from buildstep.pool.journal import SUFFIX, acquired, kept
from buildstep.pool.stale import TEMPORARY, Healed, Stale, said
from buildstep.system.locks import try_lock

_RECORDS = ("images", "layers", "blobs", "kept", "artifacts", "index", "resolved")
"""The directories of a pool's state that hold files written by `files.atomic_write`."""


def find_stale(backend: Backend) -> list[Stale]:
    """Return everything that dead builds left; nothing is changed."""
    there = set(backend.idents(Kind.BUILD))
    return [
        item
        for _, items in _of_dead_builds(backend)
        for item in items
        if (item.name in there if item.kind == "dataset" else stale.exists(item))
    ]


def heal(backend: Backend) -> list[Healed]:
    """Remove what dead builds left in this pool. Safe beside live builds: theirs are locked."""
    report: list[Healed] = []
    for journal, items in _of_dead_builds(backend):
        done = [healed for item in items if (healed := _remove(backend, item)) is not None]
        report += done
        if journal is not None and all(healed.removed for healed in done):
            journal.unlink(missing_ok=True)
    found = (stale.sweep_temporary(path) for path in _half_written_records(backend.state))
    return report + [healed for healed in found if healed is not None]


def drop_kept(backend: Backend) -> list[Healed]:
    """Remove the datasets that were kept for a person to look at."""
    report = []
    for ident in sorted(kept(backend)):
        healed = _remove(backend, Stale(ident, "dataset", ident))
        if healed is None or healed.removed:
            (backend.state / "kept" / ident).unlink(missing_ok=True)
        if healed is not None:
            report.append(healed)
    return report


def _of_dead_builds(backend: Backend) -> Iterator[tuple[Path | None, list[Stale]]]:
    """Yield each dead build's journal, locked, with what it lists; at last what has the name of a build whose
    journal is gone or damaged: its datasets, and its directory of the pool's state."""
    # Working datasets are listed before the journals are tried: one that is made meanwhile is not in
    # the list, and the journal of one that is in it existed, locked, before the dataset did.
    spared = kept(backend)
    orphans = set(backend.idents(Kind.BUILD)) - spared
    folders = _work_folders(backend.state)
    live: set[str] = set()
    for path in sorted((backend.state / "journal").glob(f"*{SUFFIX}")):
        with try_lock(path, create=False) as dead:
            if not dead:
                live.add(path.name.removesuffix(SUFFIX))
                continue
            try:
                items = [item for item in acquired(path) if item.name not in spared]
            except OSError:  # then its datasets are found without it
                yield path, [Stale(path.name.removesuffix(SUFFIX), "journal", os.fspath(path))]
                continue
            orphans -= {item.name for item in items if item.kind == "dataset"}
            folders -= {item.name for item in items if item.kind == "folder"}
            yield path, items
    yield (
        None,
        [
            Stale(os.path.basename(name), kind, name)
            for kind, names in (("dataset", orphans), ("folder", folders))
            for name in sorted(names)
            if not any(os.path.basename(name).startswith(build) for build in live)
        ],
    )


def _work_folders(state: Path) -> set[str]:
    """Return the directories that builds work in."""
    try:
        return {os.fspath((state / "work" / name).absolute()) for name in os.listdir(state / "work")}
    except FileNotFoundError:
        return set()


def _half_written_records(state: Path) -> list[Path]:
    """Return half-written files of the pool's own records, of live builds and of dead ones."""
    folders = [state, *(state / name for name in _RECORDS)]
    return sorted(
        path for folder in folders for path in folder.glob(".*.part") if TEMPORARY.fullmatch(path.name)
    )


def _remove(backend: Backend, item: Stale) -> Healed | None:
    if item.kind != "dataset":
        return stale.remove(backend.state, item)
    try:
        if not backend.exists(Kind.BUILD, item.name):
            return None
        backend.destroy(Kind.BUILD, item.name)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one thing, the others go, and builds go on
        return Healed(*item, False, said(error))
    return Healed(*item, True)
