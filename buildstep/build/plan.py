"""What a build will do, and why: decided before anything is changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from buildstep import emit
from buildstep.build import cache_inputs, content_update, steps
from buildstep.cache import outputs, resolutions
from buildstep.cache.layers import LayerCache, LayerRecord
from buildstep.cache.resolutions import Answer
from buildstep.errors import Fault, SpecError
from buildstep.events import State
from buildstep.images.store import ImageRecord, ImageStore
from buildstep.rootfs import cleaners
from buildstep.spec.load import BuildSpec
from buildstep.system.text import plural
from buildstep.tree import proto as tree_proto
from buildstep.tree.exclude import excluder
from buildstep.tree.proto import ProtoScan, scan_proto
from buildstep.tree.proto_changes import explain
from buildstep.tree.stat_index import StatIndex

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
    being copied; standing: what an earlier build wrote that is still there and would only be written
    again; amendment: how to go on from the last build's tree; answer: what the packages resolve to, as far
    as that is known beforehand.
    """

    spec: BuildSpec
    pool: str
    image: ImageRecord | None
    steps: tuple[PlannedStep, ...]
    proto: ProtoScan
    direct: bool
    standing: Mapping[str, Any] | None = None
    amendment: content_update.Amendment | None = None
    answer: Answer | None = None

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
    emit.resolve(spec.formats, spec.compression)
    state = store.backend.state
    image = store.find(spec.image)
    coming = store.foresee(spec.image) if image is None else ""
    exclude = excluder(spec.exclude)
    index = StatIndex(state, spec.proto) if spec.cache and exclude is not None else None
    proto = scan_proto(spec.proto, exclude=exclude if spec.exclude else None, index=index)
    wants = steps.wants_packages(spec)
    last_content = spec.order == "packages-first" or not wants
    direct = last_content and exclude is not None and not plain and not set(spec.formats) & set(STREAMS)
    planned: list[PlannedStep] = []

    def add(name: str, state: State, reason: str, key: str = "") -> None:
        planned.append(PlannedStep(name=name, state=state, reason=reason, key=key))

    standing, missed, layer, amendment = None, [], None, None
    if image is None:
        add("import", "run", coming)
    else:
        add("import", "reuse", f"{image.label} is in the store as {image.uuid}")
        if spec.cache and wants:
            layer = _plan_layer(spec, image, cache, proto, environ or {})
        answer = layer.answer if layer else None
        if index is not None and (proto.unchanged or tree_proto.read_few(proto)) and wants == bool(answer):
            inputs = cache_inputs.decisive(spec, image, cache_inputs.proto_digest(spec, proto), answer)
            if layer is None or layer.fresh:
                standing = outputs.find(state, outputs.key_of(inputs))
            if standing is None:
                missed = _missed(outputs.why_not(state, spec.output_dir / spec.basename, inputs), spec)
                if direct and tuple(spec.formats) == ("oci",) and (layer is None or layer.fresh):
                    amendment = content_update.find(state, spec, image, answer, proto)
    if standing is not None:
        changed = [f"{path} ({why})" for path, why in explain(proto)]
        harmless = f", where it counts; {', '.join(changed[:3])}" if changed else ""
        reason = f"nothing changed since {standing['build_id']}: {standing['cost']:.1f} s saved{harmless}"
        for name in TITLES:
            if name != "import":
                add(name, "reuse", reason)
    else:
        _plan_work(spec, image, proto, layer, missed, add, direct=direct)
        if amendment is not None:
            planned = _amended(planned, amendment.reason)
    return Plan(
        spec=spec,
        pool=store.backend.uri,
        image=image,
        steps=tuple(planned),
        proto=proto,
        direct=direct,
        standing=standing,
        amendment=amendment,
        answer=layer.answer if layer else None,
    )


def _amended(planned: Sequence[PlannedStep], reason: str) -> list[PlannedStep]:
    """The steps of a build that goes on from the last one's tree."""
    return [
        step
        if step.name in ("import", "emit") or step.state == "skip"
        else replace(step, state="reuse", reason=step.reason if step.name == "sync" else reason)
        for step in planned
    ]


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
        tree_proto.read_all(proto)
    asked = cache_inputs.question(spec, image, proto, environ)
    answer = resolutions.find(cache.backend.state, cache_inputs.answer_key(asked))
    if answer is None:
        why = cache.miss(cache_inputs.slot(spec), asked)
        return _LayerPlan(key="", answer=None, fresh=False, found=None, why=why)
    key, inputs = cache_inputs.package_layer(asked, image, answer)
    found = cache.find(key)
    return _LayerPlan(
        key=key,
        answer=answer,
        fresh=answer.fresh(spec.index_max_age),
        found=found,
        why="" if found else cache.miss(cache_inputs.slot(spec), inputs),
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
    laying = proto_text(spec, proto, direct=direct)
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
            packages = ("reuse", layer_text(found) + _age(layer.answer, fresh=layer.fresh))
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


def proto_text(spec: BuildSpec, proto: ProtoScan, *, direct: bool) -> str:
    how = "read in place" if direct else "copied"
    text = f"{spec.proto.name}/, {plural(proto.files, 'file')}, {how}"
    if proto.unchanged:
        return f"{text}; unchanged"
    if proto.changed:
        told = explain(proto)
        shown = ", ".join(f"{path} ({why})" for path, why in told[:3])
        more = f" and {len(told) - 3} more" if len(told) > 3 else ""
        return f"{text}; {proto.unread} to read: {shown}{more}"
    return f"{text}; no index yet: all are read"


def layer_text(found: LayerRecord) -> str:
    return f"layer {found.key[:12]}: {found.seconds:.1f} s saved"
