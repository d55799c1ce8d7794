"""The layer cache of a pool: what a step made, found again by its key.

state/layers/KEY.json   the record, written last: a layer without one is never used
state/layers/KEY.list   the file list of the tree up to this layer
state/layers/KEY.blob   the layer compressed, when an image was written from it
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from buildstep.errors import BuildstepError
from buildstep.filelist import FileList, dumps, hash_entries, loads, scan, spread_digests, tree_digest
from buildstep.fsutil import atomic_write, lock, read_json, take_lock, write_json
from buildstep.interfaces import Backend, Kind
from buildstep.layerkey import difference

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRecord:
    """A cached layer. inputs: what its key was made of; result: what the step told besides the tree.

    slot: the image name and step it was made for, to compare a miss with. seconds: what making it took.
    """

    key: str
    slot: str
    below: str
    inputs: Mapping[str, Any]
    tree_digest: str
    seconds: float
    created: float
    result: Mapping[str, Any] = field(default_factory=dict)


class LayerCache:
    """Layers in a pool's datasets, with records in its state directory."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._folder = backend.state / "layers"

    def _path(self, key: str, suffix: str) -> Path:
        return self._folder / f"{key}.{suffix}"

    def find(self, key: str) -> LayerRecord | None:
        """The layer of this key when record, list and dataset are all there and agree."""
        try:
            value = read_json(self._path(key, "json"))
            if value.pop("format") != FORMAT or not self._path(key, "list").exists():
                return None
            record = LayerRecord(**value)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if self.backend.exists(Kind.LAYER, key) else None

    def entries(self, record: LayerRecord) -> FileList:
        """The file list up to this layer. Raises StoreError when it is not what the record says."""
        return loads(self._path(record.key, "list").read_bytes())

    def miss(self, slot: str, inputs: Mapping[str, Any]) -> str:
        """Why there is no layer for these inputs: what differs from the latest one of this slot."""
        latest = [record for record in self.records() if record.slot == slot]
        if not latest:
            return "built for the first time"
        return (
            "; ".join(difference(latest[-1].inputs, inputs)[:5])
            or "the layer below changed, or it was pruned"
        )

    def records(self) -> list[LayerRecord]:
        """Every usable layer, oldest first."""
        keys = [path.stem for path in self._folder.glob("*.json")]
        found = [record for record in map(self.find, keys) if record is not None]
        return sorted(found, key=lambda record: record.created)

    @contextlib.contextmanager
    def making(self, key: str) -> Iterator[None]:
        """Held while a layer is made, so that two builds that need the same one make it once."""
        with lock(self.backend.state / "locks" / f"layer-{key}.lock"):
            yield

    @contextlib.contextmanager
    def using(self, key: str) -> Iterator[None]:
        """Held while a build stands on a layer, so that it is not pruned meanwhile."""
        fd = take_lock(self.backend.state / "locks" / f"layer-use-{key}.lock", shared=True)
        try:
            yield
        finally:
            os.close(fd)

    def save(self, record: LayerRecord, entries: FileList) -> None:
        """Write down a layer whose dataset has just been made."""
        assert tree_digest(entries) == record.tree_digest
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._path(record.key, "list")) as stream:
            stream.write(dumps(entries))
        write_json(self._path(record.key, "json"), {"format": FORMAT, **asdict(record)})
        self._path(record.key, "used").touch()

    def discard(self, key: str) -> None:
        """Forget a layer and remove its dataset; the record goes first."""
        for suffix in ("json", "list", "used", "blob", "blob.json"):
            self._path(key, suffix).unlink(missing_ok=True)
        self.backend.destroy(Kind.LAYER, key)

    def touch(self, key: str) -> None:
        self._path(key, "used").touch()

    def last_used(self, key: str) -> float:
        try:
            return self._path(key, "used").stat().st_mtime
        except OSError:
            return 0.0

    def prune(self, *, keep_seconds: float = 0.0) -> list[str]:
        """Remove layers unused for so long, and whatever has no record; layers in use stay."""
        removed = []
        recorded = {record.key: record for record in self.records()}
        keys = sorted(
            {*recorded, *self.backend.idents(Kind.LAYER)}, key=lambda key: -self._age_rank(key, recorded)
        )
        for key in keys:
            if key in recorded and time.time() - self.last_used(key) < keep_seconds:
                continue
            try:
                fd = take_lock(self.backend.state / "locks" / f"layer-use-{key}.lock", wait=False)
            except BlockingIOError:
                continue
            try:
                with contextlib.suppress(
                    BuildstepError
                ):  # a layer that another stands on goes in a later round
                    self.discard(key)
                    removed.append(key)
            finally:
                os.close(fd)
        return removed

    def _age_rank(self, key: str, recorded: Mapping[str, LayerRecord]) -> float:
        """Youngest first: what stands on a layer is younger than it."""
        return recorded[key].created if key in recorded else 0.0

    def verify(self) -> list[dict[str, str]]:
        """Read every layer's tree and compare with its record; damaged ones are removed and returned."""
        damaged = []
        for record in self.records():
            problem = self._problem(record)
            if problem:
                self.discard(record.key)
                damaged.append({"key": record.key, "slot": record.slot, "problem": problem})
        return damaged

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
            paths = [path for path in {*known, *real} if known.get(path) != real.get(path)]
            return f"its tree was changed, {len(paths)} paths"
        return ""
