"""What a plan knows of the shared cache: looked up beside the walk of the proto directory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from buildstep.build import cache_inputs, shared_keys
from buildstep.cache import resolutions
from buildstep.cache.layers import LayerCache
from buildstep.cache.resolutions import KeptResolution
from buildstep.cache.shared import WRONG, Hit, Shared, record_key
from buildstep.images import shared_base
from buildstep.images.record import ImageRecord
from buildstep.images.store import ImageStore
from buildstep.spec.load import BuildSpec
from buildstep.system.text import difference

if TYPE_CHECKING:
    from buildstep.cache.remote.interface import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A layer of the shared cache. asked: the question that its packages are an answer to."""

    record: Record
    asked: Mapping[str, Any]
    answer: KeptResolution


def begin(
    spec: BuildSpec,
    store: ImageStore,
    cache: LayerCache,
    image: ImageRecord | None,
    environ: Mapping[str, str],
) -> None:
    """Look up what a build may need, beside what the plan does. image: the base that is in the store."""
    shared = store.shared
    if shared is None or not shared.usable or (image is not None and _has_all(spec, cache, image, environ)):
        return

    def look() -> dict[str, Any]:
        found: dict[str, Any] = {}
        base, release = image, ""
        identity = store.identify(spec.base)
        key = identity.key if identity is not None else image.key if image is not None else ""
        if base is None and (there := shared_base.look_up(shared, store, spec.base)) is not None:
            found["base"], release = there, there.release
            base = shared_keys.of_record(there.record)
        if base is not None and base.list_digest and not shared_keys.shareable(spec):
            layer = look_up(shared, spec, base, environ, release, key)
            if layer is not None:
                found["packages"] = layer
        return found

    shared.ahead(look)


def _has_all(spec: BuildSpec, cache: LayerCache, image: ImageRecord, environ: Mapping[str, str]) -> bool:
    """Say whether there is nothing that the pool lacks, or that is shared."""
    if shared_keys.shareable(spec):
        return True
    asked = cache_inputs.question(spec, image, None, environ)
    known = resolutions.find(cache.backend.state, cache_inputs.answer_key(asked))
    if known is None or not (spec.lock is not None or known.fresh(spec.index_max_age)):
        return False
    return cache.find(cache_inputs.package_layer(asked, image, known)[0]) is not None


def look_up(
    shared: Shared,
    spec: BuildSpec,
    image: ImageRecord,
    environ: Mapping[str, str],
    release: str,
    key: str,
) -> Layer | None:
    """Return the layer with the packages of a spec on a base, if the shared cache knows what they resolve to
    now and has it. key: of the base."""
    asked = shared_keys.question(spec, image, environ)
    answer = _answer(shared, spec, asked, release)
    return None if answer is None else layer_of(shared, asked, answer, shared_keys.slot(spec, key))


def _answer(shared: Shared, spec: BuildSpec, asked: Mapping[str, Any], release: str) -> KeptResolution | None:
    now = time.time()
    rows = shared_keys.answers(spec, asked, release, now)
    names = [record_key("answer", row) for row in rows]
    found = shared.find(names)
    for row, name in zip(rows, names, strict=True):
        if (record := found.get(name)) is None:
            continue
        try:
            answer = shared_keys.answer_of(record.facts)
        except WRONG:
            continue
        if "hour" not in row:  # it holds now, whenever it was asked for
            return replace(answer, asked=now)
        if answer.fresh(spec.index_max_age):
            return answer
    nobody = "nobody has put there what they resolve to now"
    shared.missing["packages"] = next((why for name in names if (why := shared.why(name, ""))), nobody)
    return None


def layer_of(shared: Shared, asked: Mapping[str, Any], answer: KeptResolution, slot: str) -> Layer | None:
    """Return the layer with the packages that a question is answered by. slot: of all its versions."""
    wanted = record_key("packages", shared_keys.packages(asked, answer))
    record = shared.find([wanted]).get(wanted)
    if record is None:
        shared.missing["packages"] = shared.why(wanted, "") or _why(
            shared, slot, shared_keys.packages(asked, answer)
        )
        return None
    return Layer(record=record, asked=asked, answer=answer)


def told(store: ImageStore) -> dict[str, str]:
    """Wait for what was looked up, and say what of it a build will take: `base`, `packages`; and what it will
    not, as `miss: REASON`. Raises SharedCacheError where the cache is demanded and cannot be used."""
    shared = store.shared
    if shared is None:
        return {}
    found = shared.settled()
    texts = {name: f"miss: {why}" for name, why in shared.missing.items()}
    for name in ("base", "packages"):
        if (there := found.get(name)) is not None:
            record: Record = there.record
            size = sum(output.size for output in record.outputs)
            seconds = shared.store.measured.seconds_for(size)
            texts[name] = str(Hit(size=size, seconds=seconds, cost=record.seconds))
    return texts


def _why(shared: Shared, slot: str, wanted: Mapping[str, Any]) -> str:
    """Return what differs between the inputs of a layer that is not there and those of the newest that is."""
    last = shared.latest("packages", slot)
    if last is None:
        return "nobody has put them there"
    found = difference(dict(last.inputs), dict(wanted))
    texts = [text.removeprefix("versions.") for text in found]
    more = f"; and {len(texts) - 5} more" if len(texts) > 5 else ""
    return "; ".join(texts[:5]) + more or "it was there before"
