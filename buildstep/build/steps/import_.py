"""Find the base image in the store, or import it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from buildstep import emit
from buildstep.build import (
    account_check,
    cache_inputs,
    layer_comments,
    platforms,
    proto_conflicts,
    proved,
    shared_layers,
)
from buildstep.build.context import BuildContext, BuildState, report_failure
from buildstep.build.forecast import check_room
from buildstep.build.manifest import check_manifest
from buildstep.build.plan import PlanFacts, Planned
from buildstep.build.remember import note_proto
from buildstep.build.steps.interface import Route
from buildstep.cache import base_layers
from buildstep.cache.blobs import BlobStore
from buildstep.errors import ImageError
from buildstep.events import State
from buildstep.formats import codecs
from buildstep.images.importing import Importer
from buildstep.images.record import history_of_import
from buildstep.images.store import ImageRecord
from buildstep.pool.interface import Kind
from buildstep.report.record import Cleaner, Step
from buildstep.rootfs.packaging import Installed


def plan(facts: PlanFacts) -> Planned:
    """Return whether the base is in the store."""
    if facts.image is None:
        told = facts.shared.get("base", "")
        state: State = "reuse" if told.startswith("shared") else "run"
        return Planned(state, "; ".join(filter(None, (told, facts.incoming, facts.vouched))))
    text = f"{facts.image.label} is in the store as {facts.image.uuid}"
    if facts.spec.lock is not None:
        text += f", and locked by {facts.spec.lock.path.name}"
    return Planned("reuse", "; ".join(filter(None, (text, facts.asked, facts.vouched))))


def run(context: BuildContext, state: BuildState, result: Step) -> None:
    """Sets image, and for a new image the blobs, the base layer, what lies below, what of that gives way."""
    plan_, store = context.plan, context.store
    importer = Importer(store, context.journal, context.stack)
    if plan_.route is Route.FULL:
        image, present = importer.ensure(context.spec.base, thorough=not context.spec.cache)
        hit = "" if present else shared_layers.said(store.shared, "base")
        result.state = "reuse" if present or hit else "run"
        text = f"{image.label} is {image.uuid}{hit}"
        told = (text, store.said_of(context.spec.image), store.vouched.said)
        result.reason = "; ".join(filter(None, told))
    else:
        assert plan_.image is not None, "only a build whose base is in the store is incremental"
        image = _checked(importer, plan_.image, context.spec.base)
        result.state, result.reason = "reuse", plan_.steps[0].reason
    state.image_record = image
    if plan_.route is Route.UP_TO_DATE:
        with report_failure(context.bus, "keeping what was read"):
            note_proto(context)
        return
    if plan_.image is None:  # now it is known how large it is
        check_room(context.spec, backend=store.backend, image=image, proto=plan_.proto, copied=plan_.copies)
    check_manifest(context.spec, image, context.recorder)
    if plan_.update is not None:
        state.resolution = plan_.resolution
        state.installed = Installed.from_json(plan_.update.tree.installed)
        context.recorder.cleaned = [Cleaner(**row) for row in plan_.update.tree.cleaned]
        for text in plan_.update.tree.warnings:
            context.bus.note(text, level="warning")
        return
    # The list has the times as well, which the digest of the tree does not.
    if plan_.base and plan_.image is not None and plan_.image.list_digest == image.list_digest:
        state.origin = state.below = plan_.base
        state.replaced = plan_.replaced
    else:
        state.origin = state.below = store.entries(image)
        platforms.check_base(context.spec, image, store, state.below)
        platforms.check_programs(context.spec, image, _running(context))
        root = proto_conflicts.root_of(image, state.below)
        account_check.check(context.spec, store.backend, image)
        tree = partial(account_check.base_root, store.backend, image)
        state.replaced = proto_conflicts.find(context.spec, plan_.proto, root, base=image.label, tree=tree)
    if emit.has_layers(context.spec.formats):
        state.blobs = state.blobs or open_blobs(context)
        _add_base_layer(context, state, state.blobs, importer)


def _running(context: BuildContext) -> list[str]:
    return [step.name for step in context.plan.steps if step.state == "run"]


def _checked(importer: Importer, image: ImageRecord, ref: str) -> ImageRecord:
    """Return the image that the plan goes on from, imported again if it was damaged or removed since.

    Raises ImageError where its source has another one by now.
    """
    there = importer.there(image.uuid, listed=False)
    if there is not None:
        return there
    again, _ = importer.ensure(ref)
    if (again.uuid, again.tree_digest) != (image.uuid, image.tree_digest):
        raise ImageError(
            f"image {image.uuid} is damaged or gone, and its source has another one by now: {again.uuid}",
            hint="build again: that one is the base then",
            retryable=True,
        )
    return again


def open_blobs(context: BuildContext) -> BlobStore:
    """Open the store of compressed layers for the length of the build."""
    spec = context.spec
    blobs = BlobStore(
        context.backend.state,
        codecs.codec(emit.codec_of(spec, "oci")),
        slot=cache_inputs.outputs_slot(context.spec),
        style=emit.style_of(spec),
        bus=context.bus,
        journal=context.journal,
        fresh=not spec.cache,
    )
    blobs.paranoid = spec.paranoid
    blobs.want_sha1(wanted=proved.hashed(spec))
    return context.stack.enter_context(blobs)


def _add_base_layer(context: BuildContext, state: BuildState, blobs: BlobStore, importer: Importer) -> None:
    """The base image's own layers are the lowest ones; without any, all of it is one, unless it is empty."""
    image = state.image
    if image.layers:
        about = layer_comments.base(image)
        found = base_layers.find(blobs, image.layers, about)
        if found is None:  # imported again, it has them
            image, _ = importer.ensure(context.spec.base)
            found = base_layers.find(blobs, image.layers, about)
        if found is None or image.layers != state.image.layers:
            raise ImageError(f"layers of image {image.uuid} are damaged", hint="build again", retryable=True)
        state.layers += [replace(blob, created_by=history_of_import(image)) for blob in found]
        return
    if len(state.below) <= 1:
        return
    with context.backend.tree(Kind.IMAGE, image.uuid) as tree:
        comment = layer_comments.base(image)
        # The list has the times as well, which the digest of the tree does not.
        key = f"base {image.list_digest}"
        blob = blobs.for_base(key, tree, state.below, comment=comment)
    state.layers.append(replace(blob, created_by=history_of_import(image)))
