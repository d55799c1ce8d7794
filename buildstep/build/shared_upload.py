"""What a build has made, or has, that other agents can use, and the shared cache may not have."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from buildstep.build import cache_inputs, shared_keys
from buildstep.build.context import BuildContext, BuildState, report_failure
from buildstep.build.shared_put import Upload, Uploads
from buildstep.cache import adopt, shared_lists, shared_there
from buildstep.cache.blob_files import BlobRecord
from buildstep.cache.layers import LayerRecord
from buildstep.cache.resolutions import KeptResolution
from buildstep.cache.shared import record_key
from buildstep.images import shared_base
from buildstep.images.freshness import RELEASE
from buildstep.system.digest import sha256_bytes

if TYPE_CHECKING:
    from buildstep.cache.remote.interface import Wanted

IsNew = Callable[["Wanted"], bool]
"""Tells of a record whether it may be lacking there: to make one ready takes packing whole lists."""

_SHARE: Final = 0.1
_LEAST: Final = 5.0
"""Of a build's time, and seconds: what an upload may take, the larger of both."""
_DETACHED: Final = 600.0
"""Seconds that an upload may take that nobody waits for."""
_OVERHEAD: Final = 0.04
"""Seconds per MB that it takes to unpack and to hash what was fetched."""
_A_PACKAGE: Final = 0.1
"""Seconds that a package of a root costs, where nobody has measured it."""


# -- what there is ------------------------------------------------------------------------------------------


def collect(context: BuildContext, state: BuildState, seconds: float) -> Uploads | None:
    """Return what a build made, or has, and the shared cache may not have; None for nothing.

    seconds: that the build took. Each thing is there only if it is worth its bytes.
    """
    shared = context.store.shared
    if shared is None or not shared.usable or not shared.settings.upload or not shared.store.writable:
        return None
    rows: list[Upload] = []
    with report_failure(context.bus, "looking for what to share"):
        settings = shared.settings
        there = shared_there.known(context.backend.state, settings.url, settings.scope) - shared.spoiled
        if shared.thorough:
            there = set()

        def is_new(wanted: Wanted) -> bool:
            return wanted not in there and wanted[0] not in shared.hits

        rows = [*_base(context, state, is_new), *_packages(context, state, is_new), *_facts(state)]
        rows = [row for row in rows if is_new(row[0].wanted)]
    given = shared.settings.budget
    usual = _DETACHED if shared.settings.upload == "detach" else max(_LEAST, _SHARE * seconds)
    limit = usual if given is None else given
    used = tuple(shared.hits_of)
    if not rows and not used:
        return None
    return Uploads(
        rows=rows, seconds=limit, used=used, seeds=adopt.older(context.backend.state, "packages "),
        again=frozenset(shared.spoiled),
    )  # fmt: skip


def _base(context: BuildContext, state: BuildState, is_new: IsNew) -> list[Upload]:
    image = state.image_record
    if image is None or state.blobs is None or not shared_base.is_made(image):
        return []
    if not any(map(is_new, shared_base.wanted_of(image, context.store.environ))):
        return []
    blob = next(
        (it.path for it in state.layers if _key_of(it.path).startswith(f"base {image.list_digest} ")), None
    )
    if blob is None:
        return []
    seconds = next(
        (step.seconds for step in context.recorder.steps if step.name == "import" and step.state == "run"),
        _A_PACKAGE * len(image.packages),
    )
    entries = context.store.known_entries(image)
    if entries is None or not _pays(context, seconds, blob):
        return []
    return list(shared_base.records_of(image, entries, blob, context.store.environ, seconds))


def _packages(context: BuildContext, state: BuildState, is_new: IsNew) -> list[Upload]:
    """Return the layer with the packages, and what they resolve to."""
    from buildstep.cache.remote.interface import Output, Record

    spec, image, answer = context.spec, state.image_record, state.resolution
    if image is None or answer is None or not image.list_digest or shared_keys.shareable(spec):
        return []
    asked = shared_keys.question(spec, image, context.environ)
    found = _answers(context, state, asked, answer, image.inputs.get(RELEASE, ""))
    inputs = shared_keys.packages(asked, answer)
    kind, key = record_key("packages", inputs)
    if not is_new((kind, key)):
        return found
    local = cache_inputs.question(spec, image, None, context.environ)
    layer = context.cache.find(cache_inputs.package_layer(local, image, answer)[0])
    start = f"packages {image.tree_digest} {layer.tree_digest} " if layer is not None else "-"
    blob = next((it.path for it in state.layers if _key_of(it.path).startswith(start)), None)
    below = context.store.known_entries(image)
    if layer is None or blob is None or below is None or not _pays(context, layer.seconds, blob):
        return found
    rows, gone = shared_lists.pack(context.cache.entries(layer), below)
    facts = adopt.facts_of(blob)
    outputs = (
        Output(name="list", digest=sha256_bytes(rows), size=len(rows)),
        Output(name="layer", digest=facts["digest"], size=facts["size"], media=facts["media_type"]),
    )
    known = {
        "tree_digest": layer.tree_digest, "list_digest": layer.list_digest, "gone": gone, "blob": facts,
        "result": _result(layer), "size": layer.size, "inodes": layer.inodes,
    }  # fmt: skip
    slot = shared_keys.slot(spec, image.key)
    record = Record(
        kind=kind, key=key, inputs=inputs, outputs=outputs, facts=known, seconds=layer.seconds, slot=slot
    )
    # The answer last: who finds it looks for the layer.
    return [(record, {"list": rows, "layer": blob}), *found]


def _result(layer: LayerRecord) -> dict[str, Any]:
    """Return what the step reported, without what is this pool's own."""
    return {name: value for name, value in layer.result.items() if name != "image layers"}


def _answers(
    context: BuildContext,
    state: BuildState,
    asked: Mapping[str, Any],
    answer: KeptResolution,
    release: str,
) -> list[Upload]:
    from buildstep.cache.remote.interface import Record

    # Who finds these Release files later knows that they were so ever since, and the repository was asked in
    # between.
    if answer.asked < context.store.freshness.asked(state.image):
        release = ""
    facts = {name: list(part) if isinstance(part, tuple) else part for name, part in asdict(answer).items()}
    found: list[Upload] = []
    for inputs in shared_keys.answers(context.spec, asked, release, answer.asked):
        if "hour" in inputs and inputs["hour"] != int(answer.asked) // 3600:
            continue
        kind, key = record_key("answer", inputs)
        found.append((Record(kind=kind, key=key, inputs=inputs, facts=facts), {}))
    return found


def _facts(state: BuildState) -> list[Upload]:
    """Return the digests of compressed layers by what they were made of: without bytes, to be compared."""
    from buildstep.cache.remote.interface import Output, Record

    found: list[Upload] = []
    for _, blob in state.chunks:
        with contextlib.suppress(OSError, ValueError):
            facts = adopt.facts_of(blob.path)
            inputs = {"content": blob.path.name, "media_type": facts["media_type"]}
            kind, key = record_key("layer", inputs)
            output = Output(
                name="layer", digest=facts["digest"], size=facts["size"], media=facts["media_type"]
            )
            record = Record(
                kind=kind, key=key, inputs=inputs, outputs=(output,), facts={"diff_id": facts["diff_id"]},
                seconds=facts["seconds"],
            )  # fmt: skip
            found.append((record, {}))
    return found


def _key_of(path: Path) -> str:
    try:
        return BlobRecord.read(path).key
    except (OSError, ValueError):
        return ""


def _pays(context: BuildContext, seconds: float, blob: Path) -> bool:
    """Say whether something costs more to make than to fetch, as far as the speed is known."""
    shared = context.store.shared
    assert shared is not None
    size = blob.stat().st_size
    to_fetch = shared.store.measured.seconds_for(size) + size / 1e6 * _OVERHEAD
    return seconds >= shared.settings.min_cost and seconds > to_fetch
