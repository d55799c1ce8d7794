"""The layer with the packages, as the cache has it, and the compressed layer that leads to it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

from buildstep.build import cache_inputs, layer_comments, package_resolution, proto_conflicts
from buildstep.build.clones import make_clone
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlannedStep, layer_text
from buildstep.cache import resolutions
from buildstep.cache.layers import LayerRecord
from buildstep.pool.interface import Kind
from buildstep.rootfs.packaging import Installed
from buildstep.tree.diff import diff
from buildstep.tree.entry import FileList, tree_digest


class CachedLayer(NamedTuple):
    """A verified layer of the cache, and the list of its tree."""

    record: LayerRecord
    entries: FileList


def find_valid(context: BuildContext, state: BuildState) -> CachedLayer | None:
    """Return the cached layer, if it is known without a query to the repository.

    Without one the build is the only one that makes it from here on, until `obtain` has.
    """
    spec = context.spec
    if not spec.wants_packages or not spec.cache:
        return None
    if spec.order == "proto-first":
        context.plan.proto.read_all()
    question = package_resolution.question(context, state)
    name = cache_inputs.answer_key(question)
    state.making = context.stack.enter_context(contextlib.ExitStack())
    state.making.enter_context(context.cache.making(name, context.bus.note))
    resolution = resolutions.find(context.backend.state, name)
    if resolution is None or not resolution.fresh(spec.index_max_age):
        return None
    state.resolution = resolution
    layer = take(context, cache_inputs.package_layer(question, state.image, resolution)[0])
    if layer is not None:
        state.making.close()
    return layer


def settle(context: BuildContext, state: BuildState, record: LayerRecord) -> None:
    """Record that the steps which made this layer need not run."""
    names = ["packages"]
    if context.spec.order == "proto-first":
        names.insert(0, "sync")
        proto_conflicts.report(context.bus, state.replaced)
    if context.spec.wants_accounts:
        names.insert(0, "accounts")
    for name in names:
        state.settled[name] = PlannedStep(name=name, state="reuse", reason=layer_text(record), key=record.key)


def go_on(context: BuildContext, state: BuildState, layer: CachedLayer) -> None:
    """Go on in a clone of a cached layer, with the compressed layer that leads from the base to it."""
    record = layer.record
    installed = Installed.from_json(record.result.get("installed"))
    make_clone(context, state, Kind.LAYER, record.key)
    state.on_layer(layer.entries, installed)
    state.packaged = layer.entries
    if state.blobs is None:
        return
    # Whatever this layer was made from, it is one, as it is where all packages were installed at once.
    key = f"packages {state.image.tree_digest} {record.tree_digest}"
    comment = layer_comments.packages(context.spec)
    stored = state.blobs.find_key(key, comment)
    if stored is not None:
        state.layers.append(stored)
        return
    with context.backend.tree(Kind.LAYER, record.key) as root:
        add_blob(state, root, context.store.entries(state.image), comment)


def take(context: BuildContext, key: str) -> CachedLayer | None:
    """Lock a layer, and those it is based on, for the length of the build; None where there is none, or a
    damaged one."""
    cache = context.cache
    with contextlib.ExitStack() as uses:
        uses.enter_context(cache.using(key))
        taken = cache.take(key, lambda text: context.bus.note(text, level="warning"))
        if taken is None:
            return None
        for below in taken[0].under:
            uses.enter_context(cache.using(below))
        # As long as it had its record, none of those could go.
        if cache.find(key) is None:
            return None
        context.stack.push(uses.pop_all())
        return CachedLayer(*taken)


def add_blob(state: BuildState, root: Path, base: FileList, comment: str) -> None:
    """Add the compressed layer from the base to the tree with the packages, if they differ."""
    changes = diff(base, state.below)
    if state.blobs is None or not (changes.entries or changes.removed):
        return
    key = f"packages {state.image.tree_digest} {tree_digest(state.below)}"
    state.layers.append(state.blobs.for_key(key, root, changes, state.below, comment=comment))
