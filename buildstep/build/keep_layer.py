"""Keep the tree that a step has made as a layer, and go on in a clone of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from buildstep.build.clones import make_clone
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.finished_tree import Snapshot
from buildstep.cache.layers import LayerRecord
from buildstep.pool.interface import Kind
from buildstep.tree.entry import tree_digest
from buildstep.tree.hashing import hash_entries, spread_digests


@dataclass(frozen=True, kw_only=True, slots=True)
class NewLayer:
    """A layer to keep. what: it in words; inputs: all that decides it, key: the digest of these; seconds:
    what it took; result: what the step reported; of_image: whether it is a layer of the image as well."""

    key: str
    slot: str
    what: str
    inputs: Mapping[str, Any]
    seconds: float
    result: Mapping[str, Any] = field(default_factory=dict)
    of_image: bool


def keep(context: BuildContext, state: BuildState, finished: Snapshot, new: NewLayer) -> None:
    """Make the tree as it is now a layer, and go on in a clone of it; not where that is not possible."""
    key, cache = new.key, context.cache
    state.layer_key = ""
    # One that is there and was not found is of a build that died, or damaged.
    if not cache.make_room(key):
        context.bus.note(f"{new.what} is not kept: an older one of its name is in use")
        return
    context.stack.enter_context(cache.using(key))
    if cache.find(key) is not None:  # another build was faster
        return
    images = (*state.image_layers, key) if new.of_image else state.image_layers
    kept = finished.changes.entries if context.backend.cheap_clone else tuple(finished.entries.values())
    record = LayerRecord(
        key=key,
        slot=new.slot,
        below=state.image.tree_digest,
        inputs=new.inputs,
        tree_digest=tree_digest(finished.entries),
        seconds=new.seconds,
        created=time.time(),
        size=sum(entry.size for entry in kept if not entry.first),
        inodes=len(kept),
        result={
            "installed": state.installed.to_json() if state.installed else None,
            "image layers": list(images),
            **new.result,
        },
        under=state.under,
    )
    context.backend.snapshot(state.dataset, Kind.LAYER, key)
    state.dropped()  # it is the layer now
    cache.save(record, finished.entries)
    context.bus.count("layers_kept")
    state.origin = finished.entries
    make_clone(context, state, Kind.LAYER, key)
    state.under = (key, *record.under)
    state.image_layers = images
    state.layer_key = key


def set_below(context: BuildContext, state: BuildState, finished: Snapshot) -> None:
    """The tree as it is now is the layer below what follows. Every file of it is hashed."""
    hash_all(context, state, finished)
    state.below = finished.entries


def hash_all(context: BuildContext, state: BuildState, finished: Snapshot) -> None:
    """Hash what is not hashed yet of a tree."""
    context.bus.count("bytes_hashed", hash_entries(state.dataset.path, finished.entries.values()))
    spread_digests(finished.entries)
