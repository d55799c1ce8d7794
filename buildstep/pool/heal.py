"""Remove what dead builds left in a pool."""

from __future__ import annotations

from pathlib import Path

from buildstep.errors import BuildstepError
from buildstep.pool.interface import Backend, Kind
from buildstep.pool.journal import SUFFIX, acquired_items, kept
from buildstep.pool.stale import TEMPORARY, Left, is_there, remove_file, sweep_temporary
from buildstep.system.locks import try_lock

_RECORDS = ("images", "layers", "blobs", "kept", "artifacts", "index", "resolved")
"""The folders of a pool's state that hold files written by `fsutil.atomic_write`."""


def leftovers(backend: Backend) -> list[tuple[str, str, str]]:
    """(build, kind, name) of everything that dead builds left; nothing is changed."""
    found = []
    live = set()
    for path in _journals(backend.state):
        build = path.name.removesuffix(SUFFIX)
        with try_lock(path, create=False) as dead:
            if dead:
                found += [(build, kind, name) for kind, name in acquired_items(path)]
            else:
                live.add(build)
    known = {name for _, kind, name in found if kind == "dataset"}
    there = set(backend.idents(Kind.BUILD)) - kept(backend)
    for ident in sorted(there - known):
        if not any(ident.startswith(build) for build in live):
            found.append((ident, "dataset", ident))
    return [
        item for item in found if (item[2] in there if item[1] == "dataset" else is_there(item[1], item[2]))
    ]


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
        with try_lock(path, create=False) as dead:
            if not dead:
                live.add(build)
                continue
            acquired = [item for item in acquired_items(path) if item[1] not in spared]
            done = [_remove(backend, build, kind, name) for kind, name in acquired]
            report += [left for left in done if left is not None]
            if all(left is None or left.removed for left in done):
                path.unlink(missing_ok=True)
    for ident in orphans:
        if not any(ident.startswith(build) for build in live):
            left = _remove(backend, ident, "dataset", ident)
            if left is not None:
                report.append(left)
    return report + [
        left for path in _half_records(backend.state) if (left := sweep_temporary(path)) is not None
    ]


def _half_records(state: Path) -> list[Path]:
    """Half-written files of the pool's own records, of live builds and of dead ones."""
    folders = [state, *(path for path in state.glob("*") if path.is_dir() and path.name in _RECORDS)]
    return sorted(
        path for folder in folders for path in folder.glob(".*.part") if TEMPORARY.fullmatch(path.name)
    )


def _journals(state: Path) -> list[Path]:
    return sorted((state / "journal").glob(f"*{SUFFIX}"))


def _remove(backend: Backend, build: str, kind: str, name: str) -> Left | None:
    if kind != "dataset":
        return remove_file(backend.state, build, kind, name)
    try:
        if not backend.exists(Kind.BUILD, name):
            return None
        backend.destroy(Kind.BUILD, name)
    except (BuildstepError, OSError) as error:
        return Left(build, kind, name, False, str(error))
    return Left(build, kind, name, True)
