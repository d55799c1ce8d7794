"""Layers that steps made, as the cache has them, and the compressed layers that lead to them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from buildstep.build import (
    cache_inputs,
    layer_comments,
    package_resolution,
    proto_conflicts,
    shared_layers,
)
from buildstep.build.clones import make_clone
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.plan import PlannedStep
from buildstep.build.plan_text import layer_text
from buildstep.build.steps import in_order
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
        resolution = shared_layers.known_answer(context, state, name)
    if resolution is None:
        return None
    state.resolution = resolution
    key, inputs = cache_inputs.package_layer(question, state.image, resolution)
    layer = take(context, key)
    if layer is None and shared_layers.restore(context, state, key, inputs):
        layer = take(context, key)
    if layer is not None:
        state.making.close()
    return layer


def settle(context: BuildContext, state: BuildState, record: LayerRecord, up_to: str = "packages") -> None:
    """Record that the steps which made this layer need not run. up_to: the last of them."""
    names = [step.name for step in in_order(context.spec)]
    done = [name for name in names[: names.index(up_to) + 1] if name not in _BEFORE]
    for name in done:
        if name in state.settled or (name == "packages" and not context.spec.wants_packages):
            continue
        if name == "sync":
            proto_conflicts.report(context.bus, state.replaced)
        reason = layer_text(record)
        if name == "packages":
            reason += shared_layers.said(context.store.shared, name)
        state.settled[name] = PlannedStep(name=name, state="reuse", reason=reason, key=record.key)


_BEFORE = ("import", "clone")
"""Steps that are done where a layer is found."""


class LayerName(NamedTuple):
    """What made a layer of the image, and the comment that the image's history has of it."""

    kind: str
    comment: str


def go_on(context: BuildContext, state: BuildState, layer: CachedLayer) -> None:
    """Go on in a clone of a cached layer, with the compressed layers that lead from the base to it."""
    record, lists = layer.record, {layer.record.key: layer.entries}
    installed = Installed.from_json(record.result.get("installed"))
    images = tuple(record.result.get("image layers", ()))
    make_clone(context, state, Kind.LAYER, record.key)
    state.on_layer(layer.entries, installed)
    state.under = (record.key, *record.under)
    state.layer_key = record.key

    def entries_of(key: str) -> FileList:
        if key not in lists:
            found = context.cache.find(key) if key else None
            lists[key] = context.cache.entries(found) if found else context.store.entries(state.image)
        return lists[key]

    names = layer_comments.below_proto(context.spec)
    below = ""
    for number, key in enumerate(images):
        if number >= len(state.image_layers):
            _add_image_layer(context, state, (below, key), entries_of, LayerName(*names[number]))
        below = key
    state.image_layers = images
    if context.spec.wants_packages:
        state.packaged = entries_of(images[0])
    if images[-1:] != (record.key,):  # the commands after the proto directory are in the topmost layer
        state.below = entries_of(below)


def _add_image_layer(
    context: BuildContext,
    state: BuildState,
    keys: tuple[str, str],
    entries_of: Callable[[str], FileList],
    name: LayerName,
) -> None:
    """Add the compressed layer between the layers of two keys; the first is empty for the base."""
    if state.blobs is None:
        return
    records = [context.cache.find(key) for key in keys]
    assert records[1] is not None, "a layer that is in use has its record"
    old = records[0].tree_digest if records[0] is not None else state.image.tree_digest
    if old == records[1].tree_digest:
        return
    # Whatever this layer was made from, it is one, as it is where all packages were installed at once.
    stored = state.blobs.find_key(f"{name.kind} {old} {records[1].tree_digest}", name.comment)
    if stored is not None:
        state.layers.append(stored)
        return
    with context.backend.tree(Kind.LAYER, keys[1]) as root:
        add_blob(state, root, entries_of(keys[0]), name, entries_of(keys[1]))


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


def add_blob(
    state: BuildState, root: Path, base: FileList, name: LayerName, tree: FileList | None = None
) -> None:
    """Add the compressed layer that leads from one tree to another, if they differ. tree: else the one below
    what follows."""
    tree = state.below if tree is None else tree
    changes = diff(base, tree)
    if state.blobs is None or not (changes.entries or changes.removed):
        return
    key = f"{name.kind} {tree_digest(base)} {tree_digest(tree)}"
    state.layers.append(state.blobs.for_key(key, root, changes, tree, comment=name.comment))
