"""Write the image in every format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from buildstep import emit
from buildstep.build import image_rules, layer_comments, proto_check, proved
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.finished_tree import Snapshot, TreeFacts
from buildstep.build.manifest import timestamp
from buildstep.build.plan import PlanFacts, Planned, store_target
from buildstep.build.remember import keep_tree
from buildstep.cache.layer_crew import Wanted
from buildstep.emit.interface import Blob, EmitJob
from buildstep.emit.read_pass import with_parents
from buildstep.emit.split_layer import segments, timeless
from buildstep.errors import EmitError
from buildstep.formats.oci.config import sound_config
from buildstep.images.record import ImageRecord
from buildstep.pool.streams import NativeJob, NativeStreams
from buildstep.report.record import Step
from buildstep.spec.fields import BuildSpec
from buildstep.system.text import plural, size_text
from buildstep.tree.diff import Changes
from buildstep.tree.hashing import hash_entries, spread_digests


def plan(facts: PlanFacts) -> Planned:
    """Return the formats, and why earlier outputs are not valid."""
    return Planned("run", "; ".join([", ".join(facts.spec.formats), *facts.missed[:10]]))


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Sets artifacts; adds layers and chunks."""
    image_rules.search(state)
    if state.blobs is not None:
        state.blobs.want_sha1(wanted=_wants_sha1(context))
    coming = _update_layers(context, state) if context.plan.update else _split_top_layer(context, state)
    with ThreadPoolExecutor(1, thread_name_prefix="facts") as beside:
        facts: list[Future[TreeFacts]] = []
        kept: list[Future[None]] = []

        def layers() -> Iterator[Blob]:
            for blob in coming:
                state.layers.append(blob)
                yield blob
            image_rules.searched(context, state)
            # Only directories are left to be written: all that is read of the proto directory was read.
            if state.snapshot.emitted is not None and emit.only_layers(context.spec.formats):
                proto_check.begin(context, state)
            # The facts of the tree are found, and kept, while the image's file is written and hashed. Kept
            # too early does no harm: the tree is only used with an index that fits it.
            if state.snapshot.emitted is not None or state.clone is None:
                facts.append(beside.submit(state.snapshot.facts))
            if context.spec.cache:
                kept.append(beside.submit(keep_tree, context, state))

        try:
            _emit(context, state, layers())
        except EmitError:
            if state.blobs is not None:
                state.blobs.drop_damaged(state.layers)
            raise
        image_rules.searched(context, state)
        if facts:
            state.finished = replace(state.snapshot, facts=facts[0].result)
        for future in kept:
            future.result()
    _tell_holes(context)
    result.reason = ", ".join(artifact.path.name for artifact in state.artifacts) + _layers_text(state)
    if state.blobs is not None and state.blobs.saved:
        result.reason += f"; reused compressed layers (saved {state.blobs.saved:.1f} s)"


def _layers_text(state: BuildState) -> str:
    """Say how many layers the OCI image has, if there is one; the log tells of each with -v."""
    count = max(len(artifact.extra.get("layers", ())) for artifact in state.artifacts)
    if not count:
        return ""
    own = state.image.own_layers
    return f"; {plural(count, 'layer')}" + (f", {own} of them the base's" if own else "")


_MUCH = 256 << 20
"""Bytes of holes that are worth a word."""


def _tell_holes(context: BuildContext) -> None:
    """Say how much of the image is holes that were written as zeros."""
    if (size := context.bus.counts.get("bytes_of_holes", 0)) >= _MUCH:
        context.bus.note(
            f"{size_text(size)} of holes were written as zeros; with --sparse they stay holes, for readers"
            " that know GNU sparse files"
        )


def _emit(context: BuildContext, state: BuildState, layers: Iterable[Blob]) -> None:
    """Write every format under a temporary name; every file of the tree is hashed afterwards.

    layers: those above the ones of the state and below the top one, made when they are asked for.
    """
    spec, snapshot = context.spec, state.snapshot
    root = state.dataset.path if state.clone is not None else Path()
    split = context.plan.update is not None or snapshot.emitted is not None
    job = EmitJob(
        tree=snapshot.entries,
        root=root,
        changes=snapshot.changes if snapshot.emitted is None else Changes(snapshot.emitted, ()),
        layers=tuple(state.layers),
        more=layers,
        base_layers=state.image.own_layers,
        comment=layer_comments.FOLDERS if split else layer_comments.top(spec),
        manifest=spec.manifest,
        config=asdict(spec.oci) | ({"architecture": spec.architecture} if spec.architecture else {}),
        base_config=sound_config(state.image.config, partial(_tell_left_out, context)),
        compression=spec.compression,
        style=emit.style_of(spec),
        created=timestamp(spec, context.recorder),
        stem=context.stem,
        bus=context.bus,
        native=_native_job(context, state),
        target=store_target(spec, context.environ, _notes(context, state)),
        ref=spec.ref,
        origin=_origin(spec, state.image),
        paranoid=spec.paranoid,
        sha1=state.sha1 if _wants_sha1(context) else None,
    )
    state.artifacts = emit.emit(job, spec.formats, context.outputs)
    proto_check.begin(context, state)
    context.bus.count("bytes_hashed", hash_entries(root, snapshot.entries.values()))
    spread_digests(snapshot.entries)


def _wants_sha1(context: BuildContext) -> bool:
    """Whether the bill has the SHA-1s of files: where there are too many, it does not list them."""
    if not proved.hashed(context.spec):
        return False
    from buildstep.trust.inventory.listing import MOST_FILES

    return context.plan.proto.files <= MOST_FILES


def _origin(spec: BuildSpec, image: ImageRecord) -> dict[str, str]:
    """Return where the image comes from: its source, and its base image as others can find it."""
    found = {"source": spec.source_repo or ""}
    if image.files > 1:
        found |= {
            "base.name": image.label.removeprefix("docker://"),
            "base.digest": image.inputs.get("digest", ""),
        }
    return {key: text for key, text in found.items() if text}


def _tell_left_out(context: BuildContext, name: str) -> None:
    text = f"{name} of the base image's configuration is not what it may be, and is left out"
    context.bus.note(text, level="warning")


def _notes(context: BuildContext, state: BuildState) -> dict[str, Any]:
    """Return what the store is to remember of the image, for builds that have it as their base."""
    spec, base = context.spec, state.image.manifest
    known = {key: base[key] for key in ("type", "os") if key in base}
    own = {key: value for key, value in spec.manifest.items() if key != "uuid"}
    return {"build": context.journal.ident, "manifest": {**known, **own}}


def _native_job(context: BuildContext, state: BuildState) -> NativeJob | None:
    backend = context.backend
    if not emit.sends_dataset(context.spec.formats) or not isinstance(backend, NativeStreams):
        return None
    # An empty base image, as scratch is, saves nothing, and no receiver has it.
    if context.spec.full or state.image.files <= 1:
        return NativeJob(streams=backend, dataset=state.dataset, origin=None)
    image = state.image
    context.bus.note(
        f"the {backend.stream_format} stream is an increment on image {image.uuid}, which a receiver needs"
        " first; --full writes one that stands by itself"
    )
    base = context.store.entries(image)
    return NativeJob(streams=backend, dataset=state.dataset, origin=image.uuid, base=base)


def _update_layers(context: BuildContext, state: BuildState) -> Iterable[Blob]:
    """The layers of a content update: those below the proto directory's are set, the others returned."""
    update, blobs = context.plan.update, state.blobs
    assert update is not None
    assert blobs is not None
    state.layers = update.lower(blobs)
    state.finished = update.snapshot()
    return update.layers(blobs)


def _split_top_layer(context: BuildContext, state: BuildState) -> Iterable[Blob]:
    """Cut a large top layer into several, each found by its content or written; only its directories are left
    to be written as the top."""
    snapshot: Snapshot = state.snapshot
    layered = emit.has_layers(context.spec.formats)
    *parts, _ = segments(snapshot.changes) if layered else [snapshot.changes]
    if not parts:
        return ()
    # The other layers have directories of the base above their files, without times: the last one has them.
    folders = with_parents(snapshot.changes, snapshot.entries)
    state.finished = replace(snapshot, emitted=tuple(entry for entry in folders if entry.kind == "d"))
    return _part_layers(context, state, parts)


def _part_layers(context: BuildContext, state: BuildState, parts: list[Changes]) -> Iterator[Blob]:
    """The layers of these parts, which are found or made from now on."""
    blobs, root = state.blobs, state.dataset.path
    assert blobs is not None
    count = sum(bool(part.entries) for part in parts)
    number = 0
    wanted = []
    for part in parts:
        number += bool(part.entries)
        comment = layer_comments.part(number, count) if part.entries else layer_comments.REMOVED
        wanted.append(Wanted(part, comment))
    made = blobs.for_contents(root, wanted, timeless(state.snapshot.entries))
    return _noted(context, state, parts, made)


def _noted(
    context: BuildContext, state: BuildState, parts: list[Changes], made: Iterator[Blob]
) -> Iterator[Blob]:
    for part, blob in zip(parts, made, strict=True):
        state.chunks.append((part, blob))
        yield blob
    reused = context.bus.counts.get("layers_reused", 0)
    context.bus.note(f"{len(parts)} layers, {reused} of them reused")
    spread_digests(state.snapshot.entries)
