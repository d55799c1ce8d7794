"""Keep what the next build can use: what was read of the proto directory, the outputs, the finished tree.

A failure to keep it costs the next build time, and this one nothing: it is a note.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from buildstep import emit
from buildstep.build import (
    cache_inputs,
    content_update,
    elsewhere,
    package_resolution,
    proved,
)
from buildstep.build.context import BuildContext, BuildState, report_failure
from buildstep.cache import kept_tree, outputs
from buildstep.cache.kept_tree import Tree
from buildstep.cache.outputs import Last
from buildstep.cache.resolutions import KeptResolution
from buildstep.emit.interface import Blob
from buildstep.tree import stat_index
from buildstep.tree.diff import Changes
from buildstep.tree.entry import FileList
from buildstep.tree.exclude import excluder
from buildstep.tree.hashing import hash_entries, spread_digests

if TYPE_CHECKING:
    from buildstep.build.deliver import BuildResult


def remember(context: BuildContext, state: BuildState, result: BuildResult) -> None:
    """Keep the index of the proto directory, and which outputs were written from what."""
    spec = context.spec
    with report_failure(context.bus, "keeping what was read"):
        if not note_proto(context) or (spec.wants_packages and state.resolution is None):
            return
        facts = {**result.to_json(), "build_id": context.journal.ident, "cost": result.seconds}
        del facts["steps"], facts["seconds"]
        if spec.proof.writes:
            facts["trust"] = proved.note(spec, result.sidecars)
        build = _build(context, state, state.resolution)
        outputs.save(context.backend.state, build.inputs, context.stem, result.of_image, facts)
        _note_checkout(context)
        outputs.save_last(context.backend.state, cache_inputs.component(spec), build)


def remember_again(context: BuildContext, state: BuildState, result: BuildResult) -> None:
    """Note that a build whose outputs are still valid is the last one of its component, what was read for it,
    and where its outputs are as well."""
    spec, facts = context.spec, context.plan.outputs
    with report_failure(context.bus, "keeping what was read"):
        note_proto(context)
        build = _build(context, state, context.plan.resolution)
        if facts is not None and (elsewhere.wanted(context) or proved.changed(context, state)):
            places = {key: value for key, value in result.to_json().items() if key in facts}
            told = {key: value for key, value in facts.items() if key not in ("key", "place", "trust")}
            told |= {**places, **({"trust": proved.note(spec, result.sidecars)} if spec.proof.writes else {})}
            outputs.save(context.backend.state, build.inputs, context.stem, result.of_image, told)
        _note_checkout(context)
        outputs.save_last(context.backend.state, cache_inputs.component(spec), build)


def _note_checkout(context: BuildContext) -> None:
    """Note that this is the checkout of the component's last image. The index of the one before is removed
    where that is gone for good: this one has all of it."""
    spec, state = context.spec, context.backend.state
    component = cache_inputs.component(spec)
    last = stat_index.last_checkout(state, component)
    stat_index.note_checkout(state, component, spec.proto)
    if last is not None and not os.path.lexists(last):
        cache_inputs.proto_index(spec, state, last).forget()


def _build(context: BuildContext, state: BuildState, resolution: KeptResolution | None) -> Last:
    """Return what this build is made from, for comparison with the next one."""
    spec, image, proto = context.spec, state.image, context.plan.proto
    inputs = cache_inputs.decisive(spec, image, cache_inputs.proto_digest(spec, proto), resolution)
    if not spec.wants_packages or resolution is None:
        return Last(inputs)
    question = package_resolution.question(context, state)
    return Last(inputs, *cache_inputs.package_layer(question, image, resolution))


def note_proto(context: BuildContext) -> bool:
    """Keep what is known of the proto directory now. Returns False where nothing can be kept."""
    spec, proto = context.spec, context.plan.proto
    context.bus.count("bytes_hashed", proto.bytes_read)
    proto.bytes_read = 0
    if not proto.counted:
        context.bus.count("files_hashed", proto.again.files)
        context.bus.count("files_by_git", proto.again.by_git)
        proto.counted = True
    if not spec.cache or excluder(spec.exclude) is None:
        return False
    index = cache_inputs.proto_index(spec, context.backend.state)
    if proto.unchanged and proto.known.complete:
        index.touch()
        return True
    fresh = proto.fresh_entries
    if any(entry.kind == "f" and not entry.sha256 and not entry.first for entry in fresh.values()):
        return False
    if any(entry.first for entry in fresh.values()):
        _spread_digests(proto.entries)
    cache_inputs.proto_digest(spec, proto)
    proto.save(index)
    return True


def keep_tree(context: BuildContext, state: BuildState) -> None:
    """Keep the finished tree for a content update by the next build, or note that there can be none."""
    with report_failure(context.bus, "keeping the tree"):
        tree, slot = _tree_to_keep(context, state), cache_inputs.outputs_slot(context.spec)
        if tree is None:
            kept_tree.forget(context.backend.state, slot)
        else:
            kept_tree.save(context.backend.state, slot, tree)


def _tree_to_keep(context: BuildContext, state: BuildState) -> Tree | None:
    spec, proto, update = context.spec, context.plan.proto, context.plan.update
    if update is not None:
        digest = cache_inputs.proto_digest(spec, proto)
        return replace(update.tree, proto=digest, build=context.journal.ident)
    parts = [(part, blob) for part, blob in state.chunks if part.entries]
    if not (parts and spec.cache and context.plan.in_place) or not emit.only_layers(spec.formats):
        return None
    # Files that something else covers in the image have not been read so far.
    context.bus.count("bytes_hashed", hash_entries(b"", proto.fresh_entries.values()))
    if proto.inodes:
        _spread_digests(proto.entries)
    return _tree_of(context, state, parts)


def _tree_of(context: BuildContext, state: BuildState, parts: Sequence[tuple[Changes, Blob]]) -> Tree:
    """The tree of a full build. parts: what each layer holds that the proto directory was cut into."""
    spec, proto, finished = context.spec, context.plan.proto, state.snapshot
    copied = {id(entry): path for path, entry in proto.entries.items()}
    entries = finished.changes.entries
    numbers = {path: number for number, path in enumerate(sorted(finished.entries))}
    places = {entry.path: place for place, entry in enumerate(entries)}
    lower = state.layers[: len(state.layers) - len(parts)]
    notes = context.recorder.notes
    return Tree(
        inputs=content_update.inputs_key(spec, state.image, state.resolution, proto),
        proto=cache_inputs.proto_digest(spec, proto),
        build=context.journal.ident,
        lower=[(blob.path.name, blob.comment, blob.created_by) for blob in lower],
        lines=finished.facts().lines,
        paths=[entry.path for entry in entries],
        at=[numbers[entry.path] for entry in entries],
        sizes=[-1 if entry.kind == "d" else 0 if entry.first else entry.size for entry in entries],
        times=[entry.mtime for entry in entries],
        sources={
            place: copied[id(entry)]
            for place, entry in enumerate(entries)
            if copied.get(id(entry), entry.path) != entry.path
        },
        folders=[
            (numbers[path], entry.mtime)
            for path, entry in finished.entries.items()
            if entry.kind == "d" and path not in places
        ],
        repeated={numbers[entry.path] for entry in finished.emitted or () if entry.path not in places},
        hard_links={place: places[entry.first] for place, entry in enumerate(entries) if entry.first},
        in_base={
            place for place, entry in enumerate(entries) if entry.path in state.below and entry.kind != "d"
        },
        external={
            place for place, entry in enumerate(entries) if entry.kind == "f" and id(entry) not in copied
        },
        layers=[[places[entry.path] for entry in part.entries] for part, _ in parts],
        blobs=[blob.path.name for _, blob in parts],
        installed=state.installed.to_json() if state.installed else None,
        entropy=state.entropy,
        cleaned=[asdict(row) for row in context.recorder.cleaned],
        warnings=[note.text for note in notes if note.level == "warning"],
    )


def _spread_digests(entries: FileList) -> None:
    """`spread_digests` for entries that may have been given other paths since."""
    spread_digests({entry.path: entry for entry in entries.values()})
