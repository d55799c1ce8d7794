"""plan() decides and explains, execute() does and undoes."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import uuid as uuids
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from buildstep import (
    artifacts,
    cleaners,
    compress,
    emitters,
    keys,
    leftovers,
    protoscan,
    resolution,
    sandbox,
    shipping,
    steps,
)
from buildstep.buildlog import BuildLog, failed_record
from buildstep.cache import LayerCache, LayerRecord
from buildstep.emitters import oci
from buildstep.errors import BuildstepError, EmitError, Fault, Interrupted, SpecError
from buildstep.events import BuildStarted, Bus, State
from buildstep.filelist import FileList, hash_entries, spread_digests, tree_digest
from buildstep.fsutil import Root
from buildstep.images import ImageRecord, ImageStore
from buildstep.interfaces import Backend, Blob, Dataset, Finding, Kind, Package
from buildstep.journal import Journal, keep, open_journal
from buildstep.layers import BlobStore, segments, timeless
from buildstep.native import NativeJob, NativeStreams
from buildstep.outputs import Outputs
from buildstep.protoscan import ProtoScan, StatIndex, excluder, explain, scan_proto
from buildstep.record import Recorder
from buildstep.resolution import Answer
from buildstep.shipping import BuildResult, Shipment
from buildstep.spec import BuildSpec

TITLES = {
    "import": "import the base image",
    "clone": "clone it",
    "sync": "lay in the proto directory",
    "packages": "install packages",
    "clean": "clean",
    "motd": "write the message of the day",
    "snapshot": "read the finished tree",
    "emit": "write the image",
    "destroy": "drop the clone",
}

STREAMS = ("zfs", "btrfs")
"""Formats that send a dataset, and so need the proto directory inside it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStep:
    """What a step will do, and why. key: of the layer it makes or reuses."""

    name: str
    state: State
    reason: str
    key: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A build decided on: nothing has been changed yet. image: None when it has to be imported first.

    proto: the proto directory as it was found; direct: whether its files go into the image without
    being copied; layer_inputs: what the key of the layer with the packages is made of, None if there
    is no such layer or the base is not there yet; standing: what an earlier build wrote that is still
    there and would only be written again.
    """

    spec: BuildSpec
    pool: str
    image: ImageRecord | None
    steps: tuple[PlannedStep, ...]
    proto: ProtoScan
    direct: bool
    standing: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.spec.name,
            "version": self.spec.version,
            "pool": self.pool,
            "image": self.image.uuid if self.image else None,
            "steps": [asdict(step) for step in self.steps],
        }


# -- plan -----------------------------------------------------------------------------------------------


def plan(
    spec: BuildSpec,
    store: ImageStore,
    cache: LayerCache,
    *,
    plain: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Plan:
    """Decide what each step will do. Reads the store, the cache and the proto directory; changes nothing.

    plain: never take files straight from the proto directory (the result is the same, byte for byte).
    environ: the agent's environment, as `execute` will be given it.
    """
    _check_places(spec, store)
    emitters.resolve(spec.formats, spec.compression)
    state = store.backend.state
    image = store.find(spec.image)
    coming = store.foresee(spec.image) if image is None else ""
    exclude = excluder(spec.exclude)
    index = StatIndex(state, spec.proto) if spec.cache and exclude is not None else None
    proto = scan_proto(spec.proto, exclude=exclude, index=index)
    wants = steps.wants_packages(spec)
    last_content = spec.order == "packages-first" or not wants
    direct = last_content and exclude is not None and not plain and not set(spec.formats) & set(STREAMS)
    planned: list[PlannedStep] = []

    def add(name: str, state: State, reason: str, key: str = "") -> None:
        planned.append(PlannedStep(name=name, state=state, reason=reason, key=key))

    standing, missed, layer = None, [], None
    if image is None:
        add("import", "run", coming)
    else:
        add("import", "reuse", f"{image.label} is in the store as {image.uuid}")
        if spec.cache and wants:
            layer = _plan_layer(spec, image, cache, proto, environ or {})
        answer = layer.answer if layer else None
        if index is not None and (proto.unchanged or protoscan.read_few(proto)) and wants == bool(answer):
            inputs = keys.decisive(spec, image, keys.proto_digest(spec, proto), answer)
            if layer is None or layer.fresh:
                standing = artifacts.find(state, artifacts.key_of(inputs))
            if standing is None:
                missed = _missed(artifacts.why_not(state, spec.output_dir / spec.basename, inputs), spec)
    if standing is not None:
        changed = [f"{path} ({why})" for path, why in explain(proto)]
        harmless = f", where it counts; {', '.join(changed[:3])}" if changed else ""
        reason = f"nothing changed since {standing['build_id']}: {standing['cost']:.1f} s saved{harmless}"
        for name in TITLES:
            if name != "import":
                add(name, "reuse", reason)
    else:
        _plan_work(spec, image, proto, layer, missed, add, direct=direct)
    return Plan(
        spec=spec,
        pool=store.backend.uri,
        image=image,
        steps=tuple(planned),
        proto=proto,
        direct=direct,
        standing=standing,
    )


def _missed(why: list[str], spec: BuildSpec) -> list[str]:
    """Why the outputs do not stand: of the proto directory, the sync step tells; and who set an option."""
    told = []
    for text in why:
        name = text.removeprefix("option.").partition(":")[0].partition(".")[0]
        origin = spec.origin_of.get(name, "default")
        if text.startswith("proto directory:"):
            told.append("the proto directory changed")
        elif text.startswith("option.") and origin in ("environment", "flag"):
            told.append(f"{text} ({origin})")
        else:
            told.append(text)
    return told


@dataclass(frozen=True, kw_only=True, slots=True)
class _LayerPlan:
    """What is known of the layer with the packages. found: whether there is one; why: if not, why not."""

    key: str
    answer: Answer | None
    fresh: bool
    found: LayerRecord | None
    why: str


def _plan_layer(
    spec: BuildSpec, image: ImageRecord, cache: LayerCache, proto: ProtoScan, environ: Mapping[str, str]
) -> _LayerPlan:
    if spec.order == "proto-first":
        protoscan.read_all(proto)
    asked = keys.question(spec, image, proto, environ)
    answer = resolution.find(cache.backend.state, keys.answer_key(asked))
    if answer is None:
        why = cache.miss(keys.slot(spec), asked)
        return _LayerPlan(key="", answer=None, fresh=False, found=None, why=why)
    key, inputs = keys.package_layer(asked, image, answer)
    found = cache.find(key)
    return _LayerPlan(
        key=key,
        answer=answer,
        fresh=answer.fresh(spec.index_max_age),
        found=found,
        why="" if found else cache.miss(keys.slot(spec), inputs),
    )


def _check_places(spec: BuildSpec, store: ImageStore) -> None:
    """What a build writes must not be part of what it reads."""
    proto = spec.proto.resolve()
    faults = [
        Fault(where=where, message=f"{path} is inside the proto directory {spec.proto}", hint=hint)
        for where, path, hint in (
            ("--output-dir", spec.output_dir, "the image would hold its own outputs; choose another place"),
            ("--pool", store.backend.state, "the image would hold the pool; choose another place"),
        )
        if path.resolve().is_relative_to(proto)
    ]
    if faults:
        raise SpecError("places", faults)


def _plan_work(
    spec: BuildSpec,
    image: ImageRecord | None,
    proto: ProtoScan,
    layer: _LayerPlan | None,
    missed: list[str],
    add: Callable[..., None],
    *,
    direct: bool,
) -> None:
    add("clone", "run", "every build works in a clone of its own")
    laying = _proto_text(spec, proto, direct=direct)
    if not steps.wants_packages(spec):
        add("sync", "run", laying)
        add("packages", "skip", "no packages are asked for")
    else:
        found, key = (layer.found, layer.key) if layer else (None, "")
        if layer is None:
            packages = ("run", "new base" if image is None else "--no-cache")
        elif found is None or layer.answer is None:
            packages = ("run", layer.why)
        else:
            packages = ("reuse", _layer_text(found) + _age(layer.answer, fresh=layer.fresh))
        if spec.order == "packages-first":
            add("packages", *packages, key)
            add("sync", "run", laying)
        else:
            cost = "; packages are installed again whenever the proto directory changes"
            add("sync", packages[0], packages[1] if found else laying + cost)
            add("packages", *packages, key)
    add("clean", "run", ", ".join(spec.cleaners(cleaners.DEFAULT)))
    add("motd", *(("run", "/etc/motd") if spec.motd else ("skip", "not asked for")))
    add("snapshot", "run", "what the image holds, and what differs from the base")
    add("emit", "run", "; ".join([", ".join(spec.formats), *missed[:10]]))
    add("destroy", "run", "nothing is left behind")


def _age(answer: Answer, *, fresh: bool) -> str:
    if not answer.index:
        return "; known by the packages' names only"
    minutes = (time.time() - answer.asked) / 60
    asked = f"; the repository was asked {minutes:.0f} min ago"
    return asked if fresh else f"{asked}, and is asked again first"


def _proto_text(spec: BuildSpec, proto: ProtoScan, *, direct: bool) -> str:
    how = "taken as it is" if direct else "copied in"
    text = f"{spec.proto.name}/, {proto.files} files, {how}"
    if proto.unchanged:
        return f"{text}; unchanged"
    if proto.changed:
        told = explain(proto)
        shown = ", ".join(f"{path} ({why})" for path, why in told[:3])
        more = f" and {len(told) - 3} more" if len(told) > 3 else ""
        return f"{text}; {proto.unread} to read: {shown}{more}"
    return f"{text}; all to read"


# -- execute ---------------------------------------------------------------------------------------------


class _Build:
    """One build under way: what it works on, and the layers below that."""

    def __init__(
        self, plan_: Plan, store: ImageStore, cache: LayerCache, bus: Bus, environ: Mapping[str, str]
    ) -> None:
        self.plan = plan_
        self.spec = plan_.spec
        self.store = store
        self.cache = cache
        self.backend: Backend = store.backend
        self.bus = bus
        self.environ = environ
        self.recorder = Recorder(bus, total=len(plan_.steps))
        self.context = steps.Context(spec=self.spec, backend=self.backend, bus=bus, environ=environ)
        self.installed: steps.Installed | None = None
        self.answer: Answer | None = None
        self.blobs: BlobStore | None = None
        self.layers: list[Blob] = []
        self.origin: FileList = {}
        self.below: FileList = {}
        self.laid: FileList = {}
        self.dataset: Dataset | None = None
        self.clones = 0
        self.image: ImageRecord | None = None

    # Working datasets. Each has its journal line before it exists and its undo right after.

    def clone(self, journal: Journal, stack: contextlib.ExitStack, kind: Kind, ident: str) -> None:
        self.clones += 1
        name = journal.dataset(f"{journal.ident}-{self.clones}")
        stack.callback(self._drop, name)
        self.dataset = self.backend.clone(kind, ident, name)

    def _drop(self, name: str) -> None:
        """Undo of a clone. A failure here never hides the error that brought us here."""
        failed = self.dataset is not None and self.dataset.ident == name
        if failed and self.spec.keep_on_failure and self.dataset is not None:
            keep(self.backend, name)
            where = self.dataset.path
            text = f"the clone is kept: {where}"
            if getattr(self.dataset, "upper", None) is not None:
                # The mount goes with the build; what was changed is on disk.
                text = f"the clone is kept: {where.parent} (what changed is in its upper/)"
            self.bus.note(f"{text}; `buildstep heal --kept` removes it", level="warning")
            return
        with _tell_only(self.bus, f"dropping the clone {name}"):
            self.backend.destroy(Kind.BUILD, name)
            self.dataset = None if failed else self.dataset

    @property
    def tree(self) -> Dataset:
        assert self.dataset is not None, "there is a clone between the steps clone and destroy"
        return self.dataset

    @property
    def shell_root(self) -> Path:
        """Where a shell after a failure opens."""
        return self.tree.path if self.image is None else self.root(self.image).path

    def root(self, image: ImageRecord) -> Root:
        return steps.image_root(self.tree, image)


@contextlib.contextmanager
def _tell_only(bus: Bus, what: str) -> Iterator[None]:
    try:
        yield
    except (BuildstepError, OSError) as error:
        bus.note(f"{what} failed: {error}", level="error")


def execute(
    plan_: Plan, *, store: ImageStore, cache: LayerCache, bus: Bus, environ: Mapping[str, str]
) -> BuildResult:
    """Carry out a plan. On any failure nothing is shipped and nothing is left; the error is raised."""
    build = _Build(plan_, store, cache, bus, environ)
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
            result = _standing(build) or _run(build, journal, log)
        except BaseException as error:
            code = error.code if isinstance(error, BuildstepError) else 1
            build.recorder.finish(ok=False, exit_code=code, message=str(error))
            with _tell_only(bus, "keeping the log"):
                log.keep_failed(failed_record(build.recorder, spec, journal.ident, error, code))
            raise
        build.recorder.finish(ok=True, exit_code=0)
    return result


def _standing(build: _Build) -> BuildResult | None:
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
    artifacts.touch(build.backend.state, str(told["key"]))
    return BuildResult(
        uuid=told["uuid"],
        manifest=Path(told["manifest"]),
        record=Path(told["record"]),
        files=tuple(told["files"]),
        tree_digest=told["tree_digest"],
        seconds=time.time() - recorder.begin,
        recorder=recorder,
    )


def _run(build: _Build, journal: Journal, log: BuildLog) -> BuildResult:
    """The steps, in order."""
    spec, recorder = build.spec, build.recorder
    with contextlib.ExitStack() as stack:
        stack.push(_on_failure(build))
        image = build.image = _import(build, journal, stack)
        stack.enter_context(build.store.using(image))
        if steps.wants_packages(spec):
            _package_layer(build, journal, stack, image)
        else:
            _clone(build, journal, stack, Kind.IMAGE, image.uuid)
        if spec.order == "packages-first" or not steps.wants_packages(spec):
            _sync(build, image)
        if not steps.wants_packages(spec):
            _list_packages(build, image)
        entropy = _clean(build, image)
        _motd(build, image)
        shot = _snapshot(build, image)
        outputs = stack.enter_context(Outputs())
        with recorder.step("emit", TITLES["emit"]) as step:
            if "oci" in spec.formats:
                shot = _cut(build, shot)
            shipment = Shipment(
                spec=spec,
                image=image,
                shot=shot,
                root=build.tree.path,
                layers=tuple(build.layers),
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
            try:
                written = shipping.emit(shipment, recorder, outputs, build.bus)
            except EmitError:
                if build.blobs is not None:
                    build.blobs.drop_damaged(build.layers)
                raise
            step.reason = ", ".join(artifact.path.name for artifact in written)
            if build.blobs is not None and build.blobs.saved:
                step.reason += f"; layers that were there: {build.blobs.saved:.1f} s saved"
        with recorder.step("destroy", TITLES["destroy"]):
            name = build.tree.ident
            build.backend.destroy(Kind.BUILD, name)
            build.dataset = None
        shipment.proto["changed"] = explain(build.plan.proto)[:50]
        log.ship(outputs)
        result = shipping.ship(shipment, written, recorder, outputs, build.bus)
    if spec.cache:
        _remember(build, image, result, journal)
    return result


def _import(build: _Build, journal: Journal, stack: contextlib.ExitStack) -> ImageRecord:
    spec, recorder = build.spec, build.recorder
    with recorder.step("import", TITLES["import"]) as step:
        image, present = build.store.ensure(spec.image, journal)
        step.state = "reuse" if present else "run"
        step.reason = f"{image.label} is {image.uuid}"
        # What the base brings into the manifest is checked now, not after all the work.
        moment = shipping.moment_of(spec, recorder)
        shipping.final_manifest(spec, image, uuid=str(uuids.UUID(int=0)), moment=moment, file=None)
        build.origin = build.below = build.store.entries(image)
        if "oci" in spec.formats:
            codec = compress.codec(shipping.codec_of(spec, "oci"))
            build.blobs = stack.enter_context(
                BlobStore(build.backend.state, codec, bus=build.bus, journal=journal, fresh=not spec.cache)
            )
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


def _on_failure(build: _Build) -> Callable[..., bool]:
    def look(kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> bool:
        dataset = build.dataset
        if kind is None or isinstance(error, Interrupted) or dataset is None:
            return False
        if build.spec.shell_on_failure and sys.stdin.isatty():
            build.bus.note(f"failed: {error}; a shell in the clone follows, leave it to go on", level="error")
            with (
                _tell_only(build.bus, "the shell"),
                sandbox.enter(build.shell_root, bus=build.bus, environ=build.environ) as inside,
            ):
                inside.shell()
        return False

    return look


def _clone(build: _Build, journal: Journal, stack: contextlib.ExitStack, kind: Kind, ident: str) -> None:
    with build.recorder.step("clone", TITLES["clone"]) as step:
        build.clone(journal, stack, kind, ident)
        step.reason = f"{kind} {ident}"


def _sync(build: _Build, image: ImageRecord) -> None:
    with build.recorder.step("sync", TITLES["sync"]) as step:
        root = build.root(image)
        step.reason = _proto_text(build.spec, build.plan.proto, direct=build.plan.direct)
        if build.plan.direct:
            laid = steps.lay_direct(build.context, root, build.tree, build.plan.proto, build.below)
            if laid is not None:
                build.laid = laid
                return
            step.reason = f"{build.spec.proto.name}/, {build.plan.proto.files} files, copied in"
        steps.sync(build.context, root)


def _list_packages(build: _Build, image: ImageRecord) -> None:
    build.installed = steps.listed(build.context, build.root(image), image)
    count = len(build.installed.packages) if build.installed else 0
    known = f"; {build.installed.installer} has {count} in the image" if build.installed else ""
    build.recorder.skip("packages", f"no packages are asked for{known}")


def _clean(build: _Build, image: ImageRecord) -> tuple[str, ...]:
    with build.recorder.step("clean", TITLES["clean"]) as step:
        root = build.root(image)
        removed = steps.clean(build.context, root, build.tree, build.plan.proto)
        paths, size = sum(item.paths for item in removed), sum(item.bytes for item in removed)
        step.reason = f"{paths} paths, {size} bytes removed"
        return tuple(f"{path}: {why}" for path, why in leftovers.entropy(root))


def _motd(build: _Build, image: ImageRecord) -> None:
    if not build.spec.motd:
        build.recorder.skip("motd", "not asked for")
        return
    with build.recorder.step("motd", TITLES["motd"]) as step:
        step.reason = steps.motd(build.context, build.root(image), image)
        build.laid.pop(b"etc/motd", None)


def _snapshot(build: _Build, image: ImageRecord) -> steps.Snapshot:
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


def _cut(build: _Build, shot: steps.Snapshot) -> steps.Snapshot:
    """A large top layer becomes several, each found by its content or written now; only its directories
    are left to be written as the top."""
    *parts, top = segments(shot.changes)
    if not parts:
        return shot
    assert build.blobs is not None
    folders = timeless(shot.entries)
    for number, part in enumerate(parts, 1):
        comment = f"proto directory, part {number} of {len(parts)}"
        epoch = build.spec.source_date_epoch
        build.layers.append(
            build.blobs.by_content(build.tree.path, part, folders, epoch=epoch, comment=comment)
        )
    reused = build.bus.counts.get("layers_reused", 0)
    build.bus.note(f"{len(parts)} layers, {reused} of them as they were")
    spread_digests(shot.entries)
    return steps.Snapshot(entries=shot.entries, changes=shot.changes, emitted=top.entries)


def _native(build: _Build, image: ImageRecord) -> NativeJob | None:
    backend = build.backend
    if not set(build.spec.formats) & set(STREAMS) or not isinstance(backend, NativeStreams):
        return None
    origin = None if build.spec.full else image.uuid
    return NativeJob(streams=backend, dataset=build.tree, origin=origin)


def _remember(build: _Build, image: ImageRecord, result: BuildResult, journal: Journal) -> None:
    """Note what was read of the proto directory, and what was written: for the next build. A failure to
    note it costs that build time, not this one its result."""
    spec, proto = build.spec, build.plan.proto
    with _tell_only(build.bus, "noting what was read"):
        if not _note_proto(build):
            return
        told = {**result.to_json(), "build_id": journal.ident, "cost": result.seconds}
        del told["steps"], told["seconds"]
        if steps.wants_packages(spec) and build.answer is None:
            return
        inputs = keys.decisive(spec, image, keys.proto_digest(spec, proto), build.answer)
        stem = spec.output_dir / spec.basename
        artifacts.save(build.backend.state, stem, inputs, result.paths, told)


def _note_proto(build: _Build) -> bool:
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
    entries = proto.entries
    if any(entry.kind == "f" and not entry.sha256 and not entry.first for entry in entries.values()):
        return False
    _spread(entries)
    keys.proto_digest(spec, proto)
    index.save(proto, proto.noted)
    return True


def _spread(entries: FileList) -> None:
    """`spread_digests` for entries that may have been given other paths since."""
    spread_digests({entry.path: entry for entry in entries.values()})


# -- the layer with the packages --------------------------------------------------------------------------


def _package_layer(build: _Build, journal: Journal, stack: contextlib.ExitStack, image: ImageRecord) -> None:
    """The layer with the packages (and, proto-first, the proto directory under them), from the cache or
    made now, and a clone on top of it."""
    spec, cache, proto = build.spec, build.cache, build.plan.proto
    if not spec.cache:
        _make_layer(build, journal, stack, image, None)
        return
    if spec.order == "proto-first":
        protoscan.read_all(proto)
    asked = keys.question(spec, image, proto, build.environ)
    with cache.making(keys.answer_key(asked)):
        answer = resolution.find(build.backend.state, keys.answer_key(asked))
        if answer is not None and answer.fresh(spec.index_max_age):
            build.answer = answer
            if _reuse_layer(build, journal, stack, image, keys.package_layer(asked, image, answer)[0]):
                return
        _make_layer(build, journal, stack, image, asked)


def _make_layer(
    build: _Build,
    journal: Journal,
    stack: contextlib.ExitStack,
    image: ImageRecord,
    asked: Mapping[str, Any] | None,
) -> None:
    """Install the packages and keep the layer; or, where the repository says that what we have is what
    it would be, use that. asked: what the layer is for; None: it is not to be kept."""
    spec, cache = build.spec, build.cache
    begin = time.monotonic()
    _clone(build, journal, stack, Kind.IMAGE, image.uuid)
    first = build.tree.ident
    if spec.order == "proto-first":
        _sync(build, image)
    base, key = build.below, ""
    with build.recorder.step("packages", TITLES["packages"]) as step:
        with steps.packaging(build.context, build.root(image)) as packaging:
            if asked is None:
                packaging.refresh()
                why = "--no-cache"
            else:
                build.answer = _ask(build, packaging, asked)
                key, inputs = keys.package_layer(asked, image, build.answer)
                found = cache.find(key)
                why = "" if found else cache.miss(keys.slot(spec), inputs)
            if why:
                build.installed = packaging.install()
        if why:
            steps.clean(build.context, build.root(image), build.tree, build.plan.proto)
            shot = steps.snapshot(build.context, build.tree, build.origin, base, image)
            build.bus.count("bytes_hashed", hash_entries(build.tree.path, shot.entries.values()))
            spread_digests(shot.entries)
            assert build.installed is not None
            step.reason = f"{len(build.installed.packages)} packages in the image; {why}"
            build.below = shot.entries
            step.key = key
            if build.blobs is not None:
                _package_blob(build, image, build.tree.path, base)
            if asked is not None and _as_told(build, asked):
                _keep_layer(build, journal, stack, image, shot, inputs, key, time.monotonic() - begin)
            return
        step.state, step.key = "reuse", key
        step.reason = _layer_text(found) if found else ""
    build.backend.destroy(Kind.BUILD, first)
    build.dataset = None
    if not _reuse_layer(build, journal, stack, image, key, told=True):
        # It was damaged, and is gone now.
        build.recorder.steps.pop()
        _make_layer(build, journal, stack, image, asked)


def _layer_text(found: LayerRecord) -> str:
    return f"layer {found.key[:12]}: {found.seconds:.1f} s saved"


def _ask(build: _Build, packaging: steps.Packaging, asked: Mapping[str, Any]) -> Answer:
    """What the packages resolve to now. Where the repository cannot be reached: what they did last time."""
    state, name = build.backend.state, keys.answer_key(asked)
    known = resolution.find(state, name)
    if known and build.cache.find(keys.package_layer(asked, _base(build), known)[0]) is None:
        known = None
    try:
        index = packaging.refresh(hurry=known is not None)
    except BuildstepError as error:
        if known is None:
            raise
        hours = (time.time() - known.asked) / 3600
        build.bus.note(
            f"the repository cannot be reached; its answer of {hours:.1f} h ago is used ({error.message})",
            level="warning",
        )
        return known
    if known is not None and known.index == index and index:
        build.bus.note("the repository's index is what it was")
        answer = replace(known, asked=time.time())
    else:
        answer = Answer.of(index, packaging.resolve())
        if not index and build.spec.packages:
            build.bus.note(f"{packaging.installer.name} has no index here: the layer is known by names only")
    resolution.save(state, name, answer)
    return answer


def _base(build: _Build) -> ImageRecord:
    assert build.image is not None
    return build.image


def _as_told(build: _Build, asked: Mapping[str, Any]) -> bool:
    """Whether what was installed is what the layer's key says. Else the layer is not kept."""
    assert build.answer is not None
    assert build.installed is not None
    if not build.answer.exact:
        return True
    installed: dict[str, str] = {}
    for row in build.installed.packages:
        installed |= {row.name: row.version, f"{row.name}:{row.arch}": row.version}
    problem = resolution.contradiction(build.answer, installed)
    if problem:
        resolution.forget(build.backend.state, keys.answer_key(asked))
        build.answer = None
        build.bus.note(f"the layer with the packages is not kept: {problem}", level="warning")
    return not problem


def _keep_layer(
    build: _Build,
    journal: Journal,
    stack: contextlib.ExitStack,
    image: ImageRecord,
    shot: steps.Snapshot,
    inputs: Mapping[str, Any],
    key: str,
    seconds: float,
) -> None:
    """Make the tree as it is now a layer, and go on in a clone of it."""
    stack.enter_context(build.cache.using(key))
    # One that is there and was not found is of a build that died, or of an earlier boot.
    build.cache.make_room(key)
    build.backend.snapshot(build.tree, Kind.LAYER, key)
    held = shot.changes.entries if build.backend.cheap_clone else tuple(shot.entries.values())
    record = LayerRecord(
        key=key,
        slot=keys.slot(build.spec),
        below=image.tree_digest,
        inputs=inputs,
        tree_digest=tree_digest(shot.entries),
        seconds=seconds,
        created=time.time(),
        size=sum(entry.size for entry in held if not entry.first),
        inodes=len(held),
        result={"installed": asdict(build.installed) if build.installed else None},
    )
    build.cache.save(record, shot.entries)
    build.bus.count("layers_kept")
    build.origin = shot.entries
    build.clone(journal, stack, Kind.LAYER, key)


def _reuse_layer(
    build: _Build,
    journal: Journal,
    stack: contextlib.ExitStack,
    image: ImageRecord,
    key: str,
    *,
    told: bool = False,
) -> bool:
    """Go on from a cached layer, if there is a good one. told: whether the step is recorded already."""
    stack.enter_context(build.cache.using(key))
    taken = build.cache.take(key, lambda text: build.bus.note(text, level="warning"))
    if taken is None:
        return False
    found, entries = taken
    base = build.below
    build.installed = _installed_from(found.result)
    build.origin = build.below = entries
    if told:
        build.clone(journal, stack, Kind.LAYER, key)
    else:
        _clone(build, journal, stack, Kind.LAYER, key)
        reason = _layer_text(found)
        if build.spec.order == "proto-first":
            build.recorder.skip("sync", reason, state="reuse", key=key)
        build.recorder.skip("packages", reason, state="reuse", key=key)
    if build.blobs is not None:
        with build.backend.tree(Kind.LAYER, key) as tree:
            _package_blob(build, image, tree, base)
    return True


def _package_blob(build: _Build, image: ImageRecord, root: Path, base: FileList) -> None:
    assert build.blobs is not None
    changes = steps.difference(base, build.below)
    if not changes.entries and not changes.removed:
        return
    build.layers.append(
        build.blobs.known(
            f"packages {image.tree_digest} {tree_digest(build.below)}",
            root,
            changes,
            build.below,
            epoch=build.spec.source_date_epoch,
            comment=f"packages: {', '.join(build.spec.packages) or 'upgrade'}",
        )
    )


def _installed_from(result: Mapping[str, Any]) -> steps.Installed | None:
    value = result.get("installed")
    if not value:
        return None
    audit = value.get("audit")
    return steps.Installed(
        installer=value["installer"],
        packages=tuple(Package(**row) for row in value["packages"]),
        audit=None if audit is None else (audit[0], tuple(Finding(**row) for row in audit[1])),
    )
