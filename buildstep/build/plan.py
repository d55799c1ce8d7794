"""Decide what a build will do, and why, before anything is changed."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from buildstep import emit
from buildstep.build import (
    account_check,
    cache_inputs,
    content_update,
    platforms,
    proto_conflicts,
    proto_scan,
    proved,
    run_forecast,
    run_rows,
    shared_plan,
)
from buildstep.build.content_update import ContentUpdate
from buildstep.build.places import check_places
from buildstep.build.steps import in_order
from buildstep.build.steps.interface import Route
from buildstep.cache import outputs, resolutions
from buildstep.cache.layers import LayerCache, LayerRecord
from buildstep.cache.outputs import Last
from buildstep.cache.resolutions import KeptResolution
from buildstep.emit.interface import StoreTarget
from buildstep.events import State
from buildstep.files.places import cache_folder
from buildstep.images import locked, trusted_base
from buildstep.images.store import ImageRecord, ImageStore
from buildstep.rootfs.conflicts import Conflict
from buildstep.spec import check_rules
from buildstep.spec.load import BuildSpec
from buildstep.system.space import existing
from buildstep.tree import proto_limits
from buildstep.tree.entry import FileList
from buildstep.tree.exclude import excluder
from buildstep.tree.proto import ProtoDir
from buildstep.tree.proto_changes import explain


class Planned(NamedTuple):
    """What a step will do, and why. key: of the layer it makes or reuses."""

    state: State
    reason: str
    key: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStep:
    """A step of the plan, by its name in the STEPS table."""

    name: str
    state: State
    reason: str
    key: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerPlan:
    """What is known of the package layer. record: the cached layer, if there is one; missing: why there is
    none; resolution: the versions that the packages resolve to, if known; fresh: whether the repository need
    not be queried again."""

    key: str = ""
    resolution: KeptResolution | None = None
    fresh: bool = False
    record: LayerRecord | None = None
    missing: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFacts:
    """What a plan is made from; every step says from these what it will do.

    image: None when it must be imported first, and incoming then says from where; asked: what was found when
    its source was asked whether it has a newer one, empty if it was not; vouched: why a policy lets it
    through, empty without one; in_place: whether the proto directory's files are read where they are, without
    a copy in the clone; layer: None without packages or
    cache; shared: what the shared cache will do for the steps; last: finds the last build of this component,
    if it is known, which only reasons need; missed: why no earlier outputs are valid; replaced: what of the
    base gives way to the proto directory; commands: what is known of the steps that run them, and of those
    that a kept result makes needless; step: which one asks.
    """

    spec: BuildSpec
    image: ImageRecord | None
    incoming: str
    proto: ProtoDir
    in_place: bool
    asked: str = ""
    vouched: str = ""
    layer: LayerPlan | None = None
    shared: Mapping[str, str] = field(default_factory=dict)
    last: Callable[[], Last | None] = lambda: None
    missed: tuple[str, ...] = ()
    replaced: Sequence[Conflict] = ()
    commands: Mapping[str, Planned] = field(default_factory=dict)
    step: str = ""

    @property
    def resolution(self) -> KeptResolution | None:
        """What the packages resolve to, if that is known."""
        return self.layer.resolution if self.layer else None

    @property
    def settled(self) -> bool:
        """Whether it is known what the packages resolve to now, if there are any."""
        if self.layer is None:
            return not self.spec.wants_packages
        return self.layer.fresh


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A build decided on: nothing has been changed yet.

    image: None when it must be imported first; base: its file list, where the route needs it; replaced: what
    of that gives way to the proto directory; outputs: the outputs of an earlier build that are still valid;
    update: how to go on from the last build's tree;
    full_steps: the steps of the full route, which a content update falls back to when something it needs is
    gone.
    """

    spec: BuildSpec
    pool: str
    route: Route
    steps: tuple[PlannedStep, ...]
    full_steps: tuple[PlannedStep, ...]
    image: ImageRecord | None
    proto: ProtoDir
    in_place: bool
    base: FileList | None = None
    replaced: Sequence[Conflict] = ()
    outputs: Mapping[str, Any] | None = None
    update: ContentUpdate | None = None
    resolution: KeptResolution | None = None

    @property
    def copies(self) -> bool:
        """Whether the full route copies the proto directory: not one read in place or in a cached layer."""
        return not self.in_place and any(s.name == "sync" and s.state == "run" for s in self.full_steps)

    def to_json(self) -> dict[str, Any]:
        """The object that --dry-run --json prints."""
        return {
            "name": self.spec.name,
            "version": self.spec.version,
            "pool": self.pool,
            "image": self.image.uuid if self.image else None,
            "steps": [asdict(step) for step in self.steps],
        }

    def full(self) -> Plan:
        """The same build by the full route."""
        return replace(self, route=Route.FULL, steps=self.full_steps, update=None, outputs=None)


def plan(
    spec: BuildSpec,
    store: ImageStore,
    cache: LayerCache,
    *,
    plain: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Plan:
    """Return the route of a build and its steps. Reads the store, the cache and the proto directory.

    plain: copy the proto directory in any case (the result is the same, byte for byte).
    environ: the CI host's environment, as `execute` will be given it.
    Raises SpecError for places that lie inside each other, UsageError for a proto directory that does not fit
    on the base, ImageError for a base that cannot be found.
    """
    check_places(spec, store.backend.state)
    emit.resolve(spec.formats, spec.compression)
    emit.check_target(spec.formats, store_target(spec, environ or {}), store.bus)
    state, store.hashes.fresh = store.backend.state, store.hashes.fresh or not spec.cache
    locked.use(spec, store)
    trusted_base.check(spec.base, store, image := store.find(spec.base), spec.proof.base)
    shared_plan.begin(spec, store, cache, image, environ or {})
    facts = PlanFacts(
        spec=spec,
        image=image,
        incoming=store.foresee(spec.base) if image is None else "",
        asked=store.said_of(spec.base) if image is not None else "",
        vouched=store.vouched.said,
        proto=proto_scan.scan(spec, state),
        shared=shared_plan.told(store),  # by now it was looked up, beside that walk
        in_place=not plain and takes_in_place(spec),
        last=functools.cache(partial(_last_build, spec, state)),
    )
    if image is not None and spec.cache and spec.wants_packages:
        facts = replace(facts, layer=_plan_layer(facts, image, cache, environ or {}))
    facts = replace(facts, commands=run_forecast.foresee(facts, cache))
    chosen = _choose_route(facts, store, environ or {}) if _is_incremental(facts) else _Choice()
    base = None
    if chosen.route is Route.FULL:  # on the others nothing but content changed
        facts, base = _checked(facts, store)
    facts = replace(facts, missed=chosen.missed)
    full_steps = _full_steps(facts, chosen.route)
    return Plan(
        spec=spec,
        pool=store.backend.uri,
        route=chosen.route,
        steps=_steps_of_route(chosen, full_steps, facts),
        full_steps=full_steps,
        image=image,
        proto=facts.proto,
        in_place=facts.in_place,
        base=base,
        replaced=facts.replaced,
        outputs=chosen.outputs,
        update=chosen.update,
        resolution=facts.resolution,
    )


def _full_steps(facts: PlanFacts, route: Route) -> tuple[PlannedStep, ...]:
    """Return the steps of the full route. Raises ToolMissing where it is taken, and this machine cannot run
    the image's programs."""
    steps = tuple(
        PlannedStep(name=step.name, **step.load().plan(replace(facts, step=step.name))._asdict())
        for step in in_order(facts.spec)
    )
    if route is Route.FULL:
        running = [step.name for step in steps if step.state == "run"]
        platforms.check_programs(facts.spec, facts.image, running)
    return steps


def _last_build(spec: BuildSpec, state: Path) -> Last | None:
    return outputs.last(state, cache_inputs.component(spec)) if spec.cache else None


def _checked(facts: PlanFacts, store: ImageStore) -> tuple[PlanFacts, FileList | None]:
    """Return the facts with what of the base gives way to the proto directory, and the base's list, if it is
    known. Raises UsageError for what does not fit, on the base or in the pool."""
    if not facts.in_place:
        most = proto_limits.pool_name_max(os.fsencode(existing(store.backend.state)))
        if most < proto_limits.NAME_MAX:  # nearly every file system has all names that an image can have
            proto_limits.refuse_names(facts.proto.paths, most, "the pool's file system")
    if facts.image is not None:
        account_check.check(facts.spec, store.backend, facts.image)
    base = None if facts.image is None else store.known_entries(facts.image)
    if facts.image is None or base is None:
        return facts, None
    platforms.check_base(facts.spec, facts.image, store, base)
    root = proto_conflicts.root_of(facts.image, base)
    tree = partial(account_check.base_root, store.backend, facts.image)
    replaced = proto_conflicts.find(facts.spec, facts.proto, root, base=facts.image.label, tree=tree)
    return replace(facts, replaced=replaced), base


@dataclass(frozen=True, kw_only=True, slots=True)
class _Choice:
    """The route, with what it goes on from; missed: why no earlier outputs are valid."""

    route: Route = Route.FULL
    outputs: Mapping[str, Any] | None = None
    update: ContentUpdate | None = None
    missed: tuple[str, ...] = ()


def _choose_route(facts: PlanFacts, store: ImageStore, environ: Mapping[str, str]) -> _Choice:
    """Choose the shortest route that gives the same outputs. Every file's content must be known."""
    spec, image, resolution, folder = facts.spec, facts.image, facts.resolution, store.backend.state
    if image is None or spec.wants_packages != (resolution is not None):
        return _Choice()
    proto = cache_inputs.proto_digest(spec, facts.proto)
    inputs = cache_inputs.decisive(spec, image, proto, resolution)
    valid = outputs.find(folder, outputs.key_of(inputs), spec.stem) if facts.settled else None
    if valid is not None and spec.paranoid and (wrong := outputs.damaged(valid["files"])):
        return _Choice(missed=(wrong,))
    if valid is not None and (unread := proved.unproved(spec, valid, folder)):
        return _Choice(missed=(unread,))
    if valid is not None:
        if emit.still_recorded(valid["files"], store_target(spec, environ), store.bus):
            return _Choice(route=Route.UP_TO_DATE, outputs=valid)
        return _Choice(missed=(f"the store does not have {spec.ref_name} of the last build any more",))
    missed = tuple(_missed(outputs.why_not(facts.last(), inputs), spec))
    if facts.in_place and emit.only_layers(spec.formats) and facts.settled:
        update = content_update.find(folder, spec, image, resolution, facts.proto)
        if update is not None and not proved.unread(spec, folder, update.tree.build):
            return _Choice(route=Route.CONTENT_UPDATE, update=update, missed=missed)
    return _Choice(missed=missed)


def store_target(
    spec: BuildSpec, environ: Mapping[str, str], notes: Mapping[str, Any] = MappingProxyType({})
) -> StoreTarget:
    """Return where the format files records the image. notes: to be remembered with it."""
    url = spec.store or environ.get("BUILDSTEP_STORE", "")
    return StoreTarget(
        url=url, ref=spec.ref_name, environ=environ, kept=cache_folder(environ), notes=notes,
        outputs=spec.outputs, strip=spec.strip or "",
    )  # fmt: skip


def takes_in_place(spec: BuildSpec) -> bool:
    """Whether the proto directory's files are read where they are, without a copy in the clone.

    Not where packages are installed over them, or commands run on them, where only rsync can tell what is
    excluded, not for a format that sends a dataset, and not where a person or a test looks at the clone.
    """
    last = run_rows.proto_comes_later(spec) or not spec.wants_packages
    known = excluder(spec.exclude) is not None
    return (
        last
        and not run_rows.late(spec)
        and known
        and not (emit.sends_dataset(spec.formats) or spec.keep_clone or check_rules.on_tree(spec.checks))
    )


def _is_incremental(facts: PlanFacts) -> bool:
    """Whether the build can go on from an earlier one: the base is there, and the content of all files is
    known; a few changed ones are read for that."""
    if facts.image is None or not facts.spec.cache or excluder(facts.spec.exclude) is None:
        return False
    return facts.proto.unchanged or facts.proto.read_few()


def _steps_of_route(
    chosen: _Choice, full: tuple[PlannedStep, ...], facts: PlanFacts
) -> tuple[PlannedStep, ...]:
    """The steps as this route takes them."""
    proto, stem = facts.proto, facts.spec.stem
    if chosen.outputs is not None:
        changes = explain(proto)
        also = f"; {changes.pop(0)[1]}" if proto.checkout else ""
        if chosen.outputs["place"] != os.fspath(stem):
            also = f", in {os.path.dirname(chosen.outputs['place'])}{also}"
        ignored = [f"{path} ({why})" for path, why in changes][:3]
        also += f"; ignored changes: {', '.join(ignored)}" if ignored else ""
        build, cost = chosen.outputs["build_id"], chosen.outputs["cost"]
        reason = f"up to date with build {build} (saved {cost:.1f} s){also}"
        # What is beside the image may have to be made again all the same.
        beside = {"trust": proved.problem(facts.spec, chosen.outputs)}
        rest = ((step, beside.get(step.name, "")) for step in full[1:])
        again = (
            replace(step, state="run" if why else "reuse", reason=why or reason, key="") for step, why in rest
        )
        return (full[0], *again)
    if chosen.update is None:
        return full
    reason = chosen.update.reason
    return tuple(
        step
        if step.name in ("import", "check", "emit", "trust") or step.state == "skip"
        else replace(step, state="reuse", reason=step.reason if step.name == "sync" else reason)
        for step in full
    )


def _missed(why: Sequence[str], spec: BuildSpec) -> list[str]:
    """Why no outputs are valid. The sync step has the details of the proto directory; of an option, who set
    it is named."""
    found = []
    for text in why:
        name = text.removeprefix("option.").partition(":")[0].partition(".")[0]
        origin = spec.origin_of.get(name, "default")
        if text.startswith("proto directory:"):
            found.append("the proto directory changed")
        elif text.startswith("option.") and origin in ("environment", "flag"):
            found.append(f"{text} ({origin})")
        else:
            found.append(text)
    return found


def _plan_layer(
    facts: PlanFacts, image: ImageRecord, cache: LayerCache, environ: Mapping[str, str]
) -> LayerPlan:
    """Look up what the packages resolved to last time, and the layer with them."""
    spec = facts.spec
    if spec.order == "proto-first":
        facts.proto.read_all()
    question = cache_inputs.question(spec, image, facts.proto, environ)
    resolution = resolutions.find(cache.backend.state, cache_inputs.answer_key(question))
    if resolution is None:
        return LayerPlan(missing=cache.miss(cache_inputs.slot(spec), question, facts.last()))
    key, inputs = cache_inputs.package_layer(question, image, resolution)
    record = cache.find(key)
    return LayerPlan(
        key=key,
        resolution=resolution,
        fresh=spec.lock is not None or resolution.fresh(spec.index_max_age),
        record=record,
        missing="" if record else cache.miss(cache_inputs.slot(spec), inputs, facts.last()),
    )
