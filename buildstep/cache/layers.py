"""The layer cache of a pool: the tree that a step made, found again by its key.

state/layers/KEY.json   the record, written last: a layer without one is never used
state/layers/KEY.list   the file list of the tree up to this layer
state/layers/KEY.used   its time is when the layer was last used
state/locks/layer-KEY.lock      held by the build that makes the layer
state/locks/layer-use-KEY.lock  held, shared, by whoever uses the layer; exclusively while it is removed

A layer is only used when its list is the one that was written, and nothing touched its tree since it was
made. A tree that was touched is hashed again; if it differs, the layer is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from buildstep.cache import records
from buildstep.cache.outputs import Last
from buildstep.errors import BuildstepError, StoreError
from buildstep.pool.interface import Backend, Kind
from buildstep.system.files import atomic_write
from buildstep.system.locks import Tell, lock, try_lock
from buildstep.system.private import private_dir, private_file
from buildstep.system.text import difference
from buildstep.tree.diff import diff
from buildstep.tree.entry import FileList, dumps, loads, tree_digest
from buildstep.tree.hashing import hash_entries, spread_digests
from buildstep.tree.scan import fingerprint_of, scan

FORMAT = 3


@runtime_checkable
class Stacked(Protocol):
    """What a backend has besides `Backend` when a dataset's own files lie apart from its origin's."""

    def own(self, kind: Kind, ident: str) -> Path:
        """Return the directory with only this dataset's own files. Raises DatasetError."""
        ...

    def damage(self, kind: Kind, ident: str) -> Path | None:
        """Return the file that says what a dataset lies on, if it is damaged."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRecord:
    """A cached layer. inputs: what its key was made of; result: what the step reported besides the tree.

    slot: the image name and step it was made for, which a miss is compared with. seconds: the time to make
    it. size, inodes: what it holds. list_digest: SHA-256 of its list as stored. under: the layers that it is
    based on, nearest first. fingerprint: see `tree.scan.fingerprint_of`, over its own files and those of
    `under`.
    """

    key: str
    slot: str
    below: str
    inputs: Mapping[str, Any]
    tree_digest: str
    seconds: float
    created: float
    size: int = 0
    inodes: int = 0
    list_digest: str = ""
    fingerprint: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    under: tuple[str, ...] = ()


class LayerCache:
    """Layers in a pool's datasets, with records in its state directory."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._folder = backend.state / "layers"
        self._locks = backend.state / "locks"

    def _path(self, key: str, suffix: str) -> Path:
        return self._folder / f"{key}.{suffix}"

    # -- looking up -------------------------------------------------------------------------------

    def find(self, key: str) -> LayerRecord | None:
        """Return the layer of this key if record, list and dataset are there. `take` verifies it as well."""
        record = records.find(LayerRecord, self._path(key, "json"), FORMAT)
        if record is None or not self._path(key, "list").exists():
            return None
        return record if self.backend.exists(Kind.LAYER, key) else None

    def take(self, key: str, note: Callable[[str], None]) -> tuple[LayerRecord, FileList] | None:
        """Return the layer of this key, verified, and its file list; None if there is none.

        Lock it before (`using`). One that is damaged is reported to `note` and forgotten: no build takes it
        any more, and the next that makes this layer removes it, if it is not used by then (`make_room`).
        """
        record = self.find(key)
        if record is None:
            return None
        try:
            problem = self._touched(record)
            entries = self.entries(record)
        except (BuildstepError, OSError) as error:
            problem, entries = str(error), {}
        if problem:
            note(f"the layer {key[:12]} is damaged and is not used: {problem}")
            self._forget(key)
            return None
        with contextlib.suppress(OSError):
            self.touch(key)
        return record, entries

    def _touched(self, record: LayerRecord) -> str:
        """Return what is wrong with a layer's tree; cheap if nothing touched it since it was made."""
        now = self._fingerprint(record)
        if now == record.fingerprint:
            return ""
        problem = self._problem(record)
        if not problem:
            self._write(replace(record, fingerprint=now))
        return problem

    def _fingerprint(self, record: LayerRecord) -> str:
        """Return the fingerprint of the layer and of those under it, which can be touched as well."""
        if isinstance(self.backend, Stacked):
            own = self.backend.own
            return " ".join(fingerprint_of(own(Kind.LAYER, key)) for key in (record.key, *record.under))
        with self.backend.tree(Kind.LAYER, record.key) as tree:
            return fingerprint_of(tree)

    def entries(self, record: LayerRecord) -> FileList:
        """Return the file list up to this layer. Raises StoreError if it is not what was written."""
        data = self._path(record.key, "list").read_bytes()
        if hashlib.sha256(data).hexdigest() != record.list_digest:
            raise StoreError("its file list was changed")
        return loads(data)

    def miss(self, slot: str, inputs: Mapping[str, Any], last: Last | None = None) -> str:
        """Return why there is no layer of these inputs: what differs from the one of the component's last
        build, and its cost.

        last: that build, if it is known; else the newest layer of the slot counts, of a build that failed
        later on. Layers of other components tell nothing about this one.
        """
        if last is None:
            return self.why(slot, inputs)
        if not last.layer_inputs:
            return "the last build had no packages"
        return _why(last.layer_inputs, inputs, self.find(last.layer))

    def why(self, slot: str, inputs: Mapping[str, Any]) -> str:
        """Return why there is no layer of these inputs: what differs from the newest one of its slot."""
        record = next((it for it in reversed(self.records()) if it.slot == slot), None)
        return "built for the first time" if record is None else _why(record.inputs, inputs, record)

    def records(self) -> list[LayerRecord]:
        """Return every usable layer, oldest first."""
        keys = [path.stem for path in self._folder.glob("*.json") if not path.name.startswith(".")]
        found = [record for record in map(self.find, keys) if record is not None]
        return sorted(found, key=lambda record: record.created)

    def use_lock(self, key: str) -> Path:
        """Return the file that a build locks, shared, while it uses a layer."""
        return self._locks / f"layer-use-{key}.lock"

    # -- making -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def making(self, key: str, tell: Tell | None = None) -> Iterator[None]:
        """Hold a lock while a layer is made, so that two builds that need the same one make it once. tell: is
        told of a wait for another build."""
        with lock(self._locks / f"layer-{key}.lock", tell=tell):
            yield

    @contextlib.contextmanager
    def using(self, key: str) -> Iterator[None]:
        """Hold a lock while a build uses a layer, so that it is not pruned meanwhile.

        It may be gone by the time that it is locked: look for it then.
        """
        with lock(self.use_lock(key), shared=True):
            yield

    def make_room(self, key: str) -> bool:
        """Remove a dataset of this key that is no layer: of a build that died, of before a reboot, or found
        damaged while others were based on it. Returns False where one of these is in use."""
        if key not in self.backend.idents(Kind.LAYER) or self.find(key) is not None:
            return True
        # Those with the most below them first.
        for record in sorted(self.records(), key=lambda record: -len(record.under)):
            if key in record.under and not self.try_discard(record.key):
                return False
        return self.try_discard(key)

    def save(self, record: LayerRecord, entries: FileList) -> None:
        """Write the record of a layer whose dataset has just been made.

        Where that fails, such as at a full disk, the dataset is removed: nobody would find it.
        """
        try:
            assert tree_digest(entries) == record.tree_digest
            private_dir(self._folder)
            data = dumps(entries)
            with atomic_write(self._path(record.key, "list")) as stream:
                stream.write(data)
            private_file(self._path(record.key, "used"))
            digest = hashlib.sha256(data).hexdigest()
            self._write(replace(record, list_digest=digest, fingerprint=self._fingerprint(record)))
        except BaseException:
            with contextlib.suppress(BuildstepError, OSError):
                self._forget(record.key)
                self.backend.destroy(Kind.LAYER, record.key)
            raise

    def _write(self, record: LayerRecord) -> None:
        records.save(self._path(record.key, "json"), record, FORMAT, durable=True)

    # -- keeping and removing -------------------------------------------------------------------------

    def touch(self, key: str) -> None:
        """Note that a layer was used."""
        private_file(self._path(key, "used"))

    def last_used(self, key: str) -> float:
        """Return when a layer was last used (seconds since 1970); 0 if that is not known."""
        try:
            return self._path(key, "used").stat().st_mtime
        except OSError:
            return 0.0

    def _forget(self, key: str) -> None:
        """Remove a layer's record, so that nobody finds it any more."""
        for suffix in ("json", "list", "used"):
            self._path(key, suffix).unlink(missing_ok=True)

    def try_discard(self, key: str, *, unused_since: float | None = None) -> bool:
        """Remove a layer unless a build uses it, or another is based on it. Returns whether it is gone.

        unused_since: not if it was used after that time (seconds since 1970).
        """
        with try_lock(self.use_lock(key)) as unused:
            late = unused_since is not None and self.find(key) is not None
            late = late and self.last_used(key) > (unused_since or 0)
            # Whoever makes a layer on this one has it locked until the record says so.
            if not unused or late or any(key in record.under for record in self.records()):
                return False
            with contextlib.suppress(BuildstepError):
                self._forget(key)
                self.backend.destroy(Kind.LAYER, key)
                return True
            return False

    def discard_above(self, below: str) -> bool:
        """Remove every layer on a base image of this tree digest, and those that have lost their record.

        Returns whether all are gone: those that a build uses stay.
        """
        records = sorted(self.records(), key=lambda record: -len(record.under))  # the topmost first
        lost = set(self.backend.idents(Kind.LAYER)) - {record.key for record in records}
        keys = [*lost, *(record.key for record in records if record.below == below)]
        gone = [self.try_discard(key) for key in keys]
        return all(gone)

    def problem(self, record: LayerRecord) -> tuple[Path, str]:
        """Return which file of a layer is damaged and how; an empty text for a sound one, and for one that
        cannot be used any more because the machine was started again."""
        path = self._path(record.key, "list")
        try:
            self.entries(record)
        except (BuildstepError, OSError) as error:
            return path, str(error)
        if isinstance(self.backend, Stacked) and (found := self.backend.damage(Kind.LAYER, record.key)):
            return found, "it is not what was written"
        if not self.backend.exists(Kind.LAYER, record.key):
            return path, ""
        if isinstance(self.backend, Stacked):
            return self.backend.own(Kind.LAYER, record.key), self._problem(record)
        with self.backend.tree(Kind.LAYER, record.key) as tree:
            return tree, self._problem(record)

    def _problem(self, record: LayerRecord) -> str:
        try:
            known = self.entries(record)
            with self.backend.tree(Kind.LAYER, record.key) as tree:
                real = scan(tree)
                hash_entries(tree, real.values())
            spread_digests(real)
        except (BuildstepError, OSError) as error:
            return f"cannot be read: {error}"
        if tree_digest(known) != record.tree_digest:
            return "its file list was changed"
        if tree_digest(real) != record.tree_digest:
            changes = diff(known, real)
            paths = sorted([*(entry.path for entry in changes.entries), *changes.removed])
            return f"its tree was changed: {len(paths)} paths, such as /{os.fsdecode(paths[0])}"
        return ""


def _why(before: Mapping[str, Any], now: Mapping[str, Any], record: LayerRecord | None) -> str:
    found = _differences(before, now)
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    why = "; ".join(found[:5]) + more or "the repository must be queried, or the layer was pruned"
    return f"{why}; {record.seconds:.1f} s last time" if record is not None else why


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    shared = {name: old[name] for name in old if name in new or name not in LATER}
    return difference(shared, new)


LATER = ("versions", "index")
"""Inputs of a layer that are only known once the repository has been queried."""
