"""plan() decides and explains, execute() does and undoes."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import uuid as uuids
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from buildstep.build import cache_inputs, content_update, deliver, package_layer, steps
from buildstep.build.context import Build, clone_step, sync_step, tell_only
from buildstep.build.deliver import BuildResult, Shipment
from buildstep.build.log_file import BuildLog
from buildstep.build.plan import STREAMS, TITLES, Plan, PlannedStep, plan
from buildstep.cache import outputs as cache_outputs
from buildstep.cache.blobs import BlobStore
from buildstep.cache.layers import LayerCache
from buildstep.emit import oci
from buildstep.emit.interface import Blob
from buildstep.emit.split_layer import segments, timeless
from buildstep.errors import BuildstepError, EmitError, Interrupted
from buildstep.events import BuildStarted, Bus
from buildstep.formats import codecs
from buildstep.images.store import ImageRecord, ImageStore
from buildstep.pool.interface import Kind
from buildstep.pool.journal import Journal, open_journal
from buildstep.pool.streams import NativeJob, NativeStreams
from buildstep.report.record import Cleaner
from buildstep.rootfs import entropy as rootfs_entropy
from buildstep.rootfs import sandbox
from buildstep.rootfs.packaging import Installed, list_installed
from buildstep.system.output_set import Outputs
from buildstep.tree.entry import FileList
from buildstep.tree.exclude import excluder
from buildstep.tree.hashing import hash_entries, spread_digests
from buildstep.tree.proto_changes import explain
from buildstep.tree.stat_index import StatIndex

__all__ = ["STREAMS", "Plan", "PlannedStep", "execute", "plan"]


def execute(
    plan_: Plan, *, store: ImageStore, cache: LayerCache, bus: Bus, environ: Mapping[str, str]
) -> BuildResult:
    """Carry out a plan. On any failure nothing is shipped and nothing is left; the error is raised."""
    build = Build(plan_, store, cache, bus, environ)
    spec = plan_.spec
    stem = spec.output_dir / spec.basename
    with (
        open_journal(store.backend.state, f"build {spec.name} {spec.version}") as journal,
        steps.writing(stem, journal),
        BuildLog(stem, store.backend.state, journal.ident, bus) as log,
    ):
        label = plan_.image.label if plan_.image else spec.image
        bus.emit(
            BuildStarted(
                build_id=journal.ident,
                name=spec.name,
                version=spec.version,
                image=label,
                total_steps=build.recorder.total,
            )
        )
        try:
            result = _standing(build) or _amended(build, journal, log) or _run(build, journal, log)
        except BaseException as error:
            code = error.code if isinstance(error, BuildstepError) else 1
            build.recorder.finish(ok=False, exit_code=code, message=str(error))
            with tell_only(bus, "keeping the log"):
                log.keep_failed(build.recorder.failed_record(spec, journal.ident, error, code))
            raise
        build.recorder.finish(ok=True, exit_code=0)
    return result


def _standing(build: Build) -> BuildResult | None:
    """The outputs of an earlier build, when this one would only write them again."""
    plan_, recorder = build.plan, build.recorder
    if plan_.standing is None or plan_.image is None:
        return None
    with recorder.step("import", TITLES["import"]) as step:
        build.store.check(plan_.image)
        step.state, step.reason = "reuse", plan_.steps[0].reason
        _note_proto(build)
    for planned in plan_.steps[1:]:
        recorder.skip(planned.name, planned.reason, state="reuse")
    told = plan_.standing
    cache_outputs.touch(build.backend.state, str(told["key"]))
    return BuildResult(
        uuid=told["uuid"],
        manifest=Path(told["manifest"]),
        record=Path(told["record"]),
        files=tuple(told["files"]),
        tree_digest=told["tree_digest"],
        seconds=time.time() - recorder.begin,
        recorder=recorder,
    )


def _run(build: Build, journal: Journal, log: BuildLog) -> BuildResult:
    """The steps, in order."""
    spec = build.spec
    with contextlib.ExitStack() as stack:
        stack.push(_on_failure(build))
        image = build.image = _import(build, journal, stack)
        stack.enter_context(build.store.using(image))
        if steps.wants_packages(spec):
            package_layer.package_layer(build, journal, stack, image)
        else:
            clone_step(build, journal, stack, Kind.IMAGE, image.uuid)
        if spec.order == "packages-first" or not steps.wants_packages(spec):
            sync_step(build, image)
        if not steps.wants_packages(spec):
            _list_packages(build, image)
        entropy = _clean(build, image)
        _motd(build, image)
        shot = _snapshot(build, image)
        keep = partial(_kept_tree, build, image, journal, shot, entropy)
        result = _deliver(build, image, journal, log, stack, partial(_cut, build, shot), keep, entropy)
        # What follows takes memory of its own.
        build.laid, build.origin, build.below = {}, {}, {}
        build.plan.proto.forget_entries()
        del shot, keep
    if spec.cache:
        _remember(build, image, result, journal)
    return result


def _amended(build: Build, journal: Journal, log: BuildLog) -> BuildResult | None:
    """The image made from the last one's tree, where only the content of files changed."""
    plan_, recorder, spec = build.plan, build.recorder, build.spec
    amendment, image = plan_.amendment, plan_.image
    if amendment is None or image is None:
        return None
    with contextlib.ExitStack() as stack:
        blobs = build.blobs = _blobs(build, stack, journal)
        if not amendment.complete(blobs):
            build.blobs = None
            return None
        build.image, build.answer = image, plan_.answer
        build.installed = Installed.from_json(amendment.tree.installed)
        with recorder.step("import", TITLES["import"]) as step:
            build.store.check(image)
            stack.enter_context(build.store.using(image))
            step.state, step.reason = "reuse", plan_.steps[0].reason
            _check_manifest(build, image)
        recorder.cleaned = [Cleaner(**row) for row in amendment.tree.cleaned]
        for text in amendment.tree.warnings:
            build.bus.note(text, level="warning")
        for planned in plan_.steps[1:-2]:
            recorder.skip(planned.name, planned.reason, state=planned.state)

        def layered() -> Layered:
            build.layers = amendment.lower(blobs)
            return amendment.snapshot(), amendment.layers(blobs, epoch=spec.source_date_epoch)

        def keep() -> content_update.Tree:
            return replace(
                amendment.tree, proto=cache_inputs.proto_digest(spec, plan_.proto), build=journal.ident
            )

        result = _deliver(build, image, journal, log, stack, layered, keep, amendment.tree.entropy)
    _remember(build, image, result, journal)
    return result


def _deliver(
    build: Build,
    image: ImageRecord,
    journal: Journal,
    log: BuildLog,
    stack: contextlib.ExitStack,
    layered: Callable[[], Layered],
    keep: Callable[[], content_update.Tree | None],
    entropy: tuple[str, ...],
) -> BuildResult:
    """The steps from the finished tree on. layered: tells what there is, and makes the layers that are not
    there yet below the top one; keep: then tells what the next build may go on from."""
    spec, recorder = build.spec, build.recorder
    outputs = stack.enter_context(Outputs())
    with recorder.step("emit", TITLES["emit"]) as step:
        shot, coming = layered()
        shipment = Shipment(
            spec=spec,
            image=image,
            shot=shot,
            root=build.tree.path if build.dataset else Path(),
            layers=build.layers,
            installed=build.installed,
            build_id=journal.ident,
            pool=build.backend.uri,
            proto={
                "path": os.fspath(spec.proto),
                "files": build.plan.proto.files,
                "bytes": build.plan.proto.size,
                "direct": build.plan.direct,
            },
            entropy=entropy,
            native=_native(build, image),
        )
        with ThreadPoolExecutor(1, thread_name_prefix="facts") as beside:
            told: list[Future[steps.Facts]] = []
            kept: list[Future[None]] = []

            def more() -> Iterator[Blob]:
                for blob in coming:
                    build.layers.append(blob)
                    yield blob
                # What is told of the tree is found out, and kept, while the image's file is written and
                # hashed. Kept too early does no harm: it is only used with an index that fits it.
                if shot.emitted is not None or build.dataset is None:
                    told.append(beside.submit(shot.facts))
                if spec.cache:
                    kept.append(beside.submit(_keep, build, keep))

            try:
                written = deliver.emit(shipment, more(), recorder, outputs, build.bus)
            except EmitError:
                if build.blobs is not None:
                    build.blobs.drop_damaged(build.layers)
                raise
            if told:
                shipment = replace(shipment, shot=replace(shot, facts=told[0].result))
            for future in kept:
                future.result()
        step.reason = ", ".join(artifact.path.name for artifact in written)
        if build.blobs is not None and build.blobs.saved:
            step.reason += f"; layers that were there: {build.blobs.saved:.1f} s saved"
    if build.dataset is None:
        recorder.skip("destroy", build.plan.steps[-1].reason, state="reuse")
    else:
        with recorder.step("destroy", TITLES["destroy"]):
            build.backend.destroy(Kind.BUILD, build.dataset.ident)
            build.dataset = None
    shipment.proto["changed"] = explain(build.plan.proto)[:50]
    log.ship(outputs)
    result = deliver.ship(shipment, written, recorder, outputs, build.bus)
    if build.blobs is not None and spec.cache:
        with tell_only(build.bus, "noting the layers"):
            build.blobs.remember()
    return result


def _import(build: Build, journal: Journal, stack: contextlib.ExitStack) -> ImageRecord:
    spec, recorder = build.spec, build.recorder
    with recorder.step("import", TITLES["import"]) as step:
        image, present = build.store.ensure(spec.image, journal)
        step.state = "reuse" if present else "run"
        step.reason = f"{image.label} is {image.uuid}"
        _check_manifest(build, image)
        build.origin = build.below = build.store.entries(image)
        if "oci" in spec.formats:
            build.blobs = _blobs(build, stack, journal)
            if len(build.below) > 1:
                with build.backend.tree(Kind.IMAGE, image.uuid) as tree:
                    build.layers.append(
                        build.blobs.known(
                            f"base {image.tree_digest}",
                            tree,
                            oci.whole(build.below),
                            build.below,
                            epoch=None,
                            comment=f"base image {image.name} {image.version}",
                        )
                    )
    return image


def _check_manifest(build: Build, image: ImageRecord) -> None:
    """What the base brings into the manifest is checked first, not after all the work."""
    moment = deliver.moment_of(build.spec, build.recorder)
    deliver.final_manifest(build.spec, image, uuid=str(uuids.UUID(int=0)), moment=moment, file=None)


def _blobs(build: Build, stack: contextlib.ExitStack, journal: Journal) -> BlobStore:
    spec = build.spec
    return stack.enter_context(
        BlobStore(
            build.backend.state,
            codecs.codec(deliver.codec_of(spec, "oci")),
            slot=os.fspath(spec.output_dir / spec.basename),
            bus=build.bus,
            journal=journal,
            fresh=not spec.cache,
        )
    )


def _on_failure(build: Build) -> Callable[..., bool]:
    def look(kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> bool:
        dataset = build.dataset
        if kind is None or isinstance(error, Interrupted) or dataset is None:
            return False
        if build.spec.shell_on_failure and sys.stdin.isatty():
            build.bus.note(f"failed: {error}; a shell in the clone follows, leave it to go on", level="error")
            with (
                tell_only(build.bus, "the shell"),
                sandbox.enter(build.shell_root, bus=build.bus, environ=build.environ) as inside,
            ):
                inside.shell()
        return False

    return look


def _list_packages(build: Build, image: ImageRecord) -> None:
    build.installed = list_installed(
        build.spec,
        build.root(image),
        known=image.packages,
        privileged=build.backend.privileged,
        bus=build.bus,
        environ=build.environ,
    )
    count = len(build.installed.packages) if build.installed else 0
    known = f"; {build.installed.installer} has {count} in the image" if build.installed else ""
    build.recorder.skip("packages", f"no packages are asked for{known}")


def _clean(build: Build, image: ImageRecord) -> tuple[str, ...]:
    with build.recorder.step("clean", TITLES["clean"]) as step:
        root = build.root(image)
        removed = steps.clean(build.context, root, build.tree, build.plan.proto)
        paths, size = sum(item.paths for item in removed), sum(item.bytes for item in removed)
        step.reason = f"{paths} paths, {size} bytes removed"
        return tuple(f"{path}: {why}" for path, why in rootfs_entropy.entropy(root))


def _motd(build: Build, image: ImageRecord) -> None:
    if not build.spec.motd:
        build.recorder.skip("motd", "not asked for")
        return
    with build.recorder.step("motd", TITLES["motd"]) as step:
        step.reason = steps.motd(build.context, build.root(image), image)
        inside = os.path.relpath(build.root(image).path, build.tree.path)
        build.laid.pop(os.fsencode(os.path.normpath(f"{inside}/etc/motd")), None)


def _snapshot(build: Build, image: ImageRecord) -> steps.Snapshot:
    with build.recorder.step("snapshot", TITLES["snapshot"]) as step:
        shot = steps.snapshot(
            build.context,
            build.tree,
            build.origin,
            build.below,
            image,
            laid=build.laid,
            proto=None if build.laid else build.plan.proto,
        )
        changes = shot.changes
        changed, removed = len(changes.entries), len(changes.removed)
        step.reason = f"{len(shot.entries)} paths, {changed} new or changed, {removed} removed"
    return shot


Layered = tuple[steps.Snapshot, Iterable[Blob]]
"""A finished tree, and layers of it that are made when they are asked for."""


def _cut(build: Build, shot: steps.Snapshot) -> Layered:
    """A large top layer becomes several, each found by its content or written; only its directories are left
    to be written as the top."""
    *parts, top = segments(shot.changes) if "oci" in build.spec.formats else [shot.changes]
    if not parts:
        return shot, ()
    assert build.blobs is not None
    blobs, root, epoch = build.blobs, build.tree.path, build.spec.source_date_epoch

    def layers() -> Iterator[Blob]:
        folders = timeless(shot.entries)
        count = sum(bool(part.entries) for part in parts)
        number = 0
        for part in parts:
            number += bool(part.entries)
            comment = (
                content_update.part_comment(number, count)
                if part.entries
                else "what is removed from the base"
            )
            blob = blobs.by_content(root, part, folders, epoch=epoch, comment=comment)
            build.parts.append((part, blob))
            yield blob
        reused = build.bus.counts.get("layers_reused", 0)
        build.bus.note(f"{len(parts)} layers, {reused} of them as they were")
        spread_digests(shot.entries)

    return replace(shot, emitted=top.entries), layers()


def _kept_tree(
    build: Build, image: ImageRecord, journal: Journal, shot: steps.Snapshot, entropy: tuple[str, ...]
) -> content_update.Tree | None:
    """What the next build may go on from, if it may."""
    parts = [(part, blob) for part, blob in build.parts if part.entries]
    if not (parts and build.spec.cache and build.plan.direct) or tuple(build.spec.formats) != ("oci",):
        return None
    # Files that something else covers in the image have not been read so far.
    proto = build.plan.proto
    build.bus.count("bytes_hashed", hash_entries(b"", proto.fresh_entries.values()))
    if proto.inodes:
        _spread(proto.entries)
    return content_update.tree_of(
        build.spec,
        image,
        build.answer,
        build.plan.proto,
        build=journal.ident,
        below=build.below,
        shot=shot,
        parts=parts,
        lower=build.layers[: len(build.layers) - len(parts)],
        installed=build.installed.to_json() if build.installed else None,
        entropy=entropy,
        cleaned=[asdict(row) for row in build.recorder.cleaned],
        warnings=[note.text for note in build.recorder.notes if note.level == "warning"],
    )


def _native(build: Build, image: ImageRecord) -> NativeJob | None:
    backend = build.backend
    if not set(build.spec.formats) & set(STREAMS) or not isinstance(backend, NativeStreams):
        return None
    origin = None if build.spec.full else image.uuid
    return NativeJob(streams=backend, dataset=build.tree, origin=origin)


def _keep(build: Build, keep: Callable[[], content_update.Tree | None]) -> None:
    with tell_only(build.bus, "keeping the tree"):
        tree = keep()
        if tree is None:
            content_update.forget(build.backend.state, build.spec)
        else:
            content_update.save(build.backend.state, build.spec, tree)


def _remember(build: Build, image: ImageRecord, result: BuildResult, journal: Journal) -> None:
    """Note what was read of the proto directory, and what was written: for the next build. A failure to
    note it costs that build time, not this one its result."""
    spec, proto = build.spec, build.plan.proto
    with tell_only(build.bus, "noting what was read"):
        if not _note_proto(build):
            return
        told = {**result.to_json(), "build_id": journal.ident, "cost": result.seconds}
        del told["steps"], told["seconds"]
        if steps.wants_packages(spec) and build.answer is None:
            return
        inputs = cache_inputs.decisive(spec, image, cache_inputs.proto_digest(spec, proto), build.answer)
        stem = spec.output_dir / spec.basename
        cache_outputs.save(build.backend.state, stem, inputs, result.paths, told)


def _note_proto(build: Build) -> bool:
    """Write down what is known of the proto directory now. False where nothing can be."""
    spec, proto = build.spec, build.plan.proto
    build.bus.count("bytes_hashed", proto.read)
    proto.read = 0
    if not spec.cache or excluder(spec.exclude) is None:
        return False
    index = StatIndex(build.backend.state, spec.proto)
    if proto.unchanged:
        index.touch()
        return True
    fresh = proto.fresh_entries
    if any(entry.kind == "f" and not entry.sha256 and not entry.first for entry in fresh.values()):
        return False
    if any(entry.first for entry in fresh.values()):
        _spread(proto.entries)
    cache_inputs.proto_digest(spec, proto)
    index.save(proto, proto.noted)
    return True


def _spread(entries: FileList) -> None:
    """`spread_digests` for entries that may have been given other paths since."""
    spread_digests({entry.path: entry for entry in entries.values()})
