"""The layer with the packages, taken from the shared cache: looked up, unpacked on the base, and kept."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildstep.build import cache_inputs, shared_keys, shared_plan
from buildstep.build.context import BuildContext, BuildState
from buildstep.build.shared_plan import Layer
from buildstep.cache import adopt, resolutions, shared_lists
from buildstep.cache.layers import LayerRecord
from buildstep.cache.resolutions import KeptResolution
from buildstep.cache.shared import WRONG, Hit, Shared, text_of
from buildstep.errors import InputMissingError, SharedCacheError
from buildstep.formats.unpack import apply_layer
from buildstep.pool.interface import Dataset, Kind
from buildstep.system.remove import remove_tree
from buildstep.tree.entry import FileList

if TYPE_CHECKING:
    from buildstep.cache.remote.interface import Record


def known_answer(context: BuildContext, state: BuildState, name: str) -> KeptResolution | None:
    """Return what the packages resolve to, as another agent was told; it is kept under this name."""
    shared = context.store.shared
    if shared is None or not shared.usable or shared_keys.shareable(context.spec):
        return None
    found = shared.settled().get("packages")
    if not isinstance(found, Layer) or found.asked != _asked(context, state):
        return None
    resolutions.save(context.backend.state, name, found.answer)
    return found.answer


def _asked(context: BuildContext, state: BuildState) -> dict[str, Any]:
    return shared_keys.question(context.spec, state.image, context.environ)


def restore(context: BuildContext, state: BuildState, key: str, inputs: Mapping[str, Any]) -> bool:
    """Make the layer of this key from the shared cache. inputs: all that decides it. False where that cannot
    be, with a note if it should have been."""
    shared, spec = context.store.shared, context.spec
    if shared is None or not shared.usable or state.resolution is None or shared_keys.shareable(spec):
        return False
    asked = _asked(context, state)
    found = shared_plan.layer_of(shared, asked, state.resolution, shared_keys.slot(spec, state.image.key))
    shared.settled()
    if found is None or found.record.wanted in shared.tried or not context.cache.make_room(key):
        return False
    return _restore(context, state, shared, found.record, (key, inputs))


def settled(context: BuildContext, state: BuildState) -> LayerRecord | None:
    """Return the layer that this build has to take from the shared cache; None where that is not said. Raises
    InputMissingError where it does not come."""
    shared = context.store.shared
    if shared is None or shared.layer is None:
        return None
    _, key = wanted = shared.layer
    record = shared.find([wanted]).get(wanted)
    if record is not None and context.cache.find(key) is None and context.cache.make_room(key):
        _restore(context, state, shared, record, (key, record.inputs))
    layer = context.cache.find(key)
    if layer is None:
        why = shared.missing.get("packages") or shared.trouble or "it is gone"
        raise InputMissingError(
            "the layer with the packages does not come from the shared cache",
            detail=f"  looked for in {shared.settings.url}: {why}",
        )
    return layer


def _restore(
    context: BuildContext,
    state: BuildState,
    shared: Shared,
    record: Record,
    layer: tuple[str, Mapping[str, Any]],
) -> bool:
    """Make a layer of its record, and keep it by its key and what decides it; see `restore`."""
    shared.tried.add(record.wanted)
    begin = time.monotonic()
    ident = context.journal.dataset(f"{context.journal.ident}-shared")
    folder = context.journal.folder(context.backend.state / "work" / ident)
    dataset = context.backend.clone(Kind.IMAGE, state.image.uuid, ident)
    try:
        made = _unpack(context, state, record, dataset, folder)
        if made is not None:
            _keep(context, state, record, dataset, made, layer)
            size = sum(output.size for output in record.outputs)
            seconds = time.monotonic() - begin
            shared.hit("packages", Hit(size=size, seconds=seconds, cost=record.seconds), record)
            return True
    except BaseException as error:
        if not isinstance(error, WRONG) or isinstance(error, SharedCacheError):  # it is demanded
            context.backend.destroy(Kind.BUILD, ident)
            raise
        shared.refused("packages", text_of(error))
    finally:
        remove_tree(folder)
    context.backend.destroy(Kind.BUILD, ident)
    return False


def _unpack(
    context: BuildContext, state: BuildState, record: Record, dataset: Dataset, folder: Path
) -> FileList | None:
    """Lay the layer over a clone of the base, and return the list of what that gives; None where it did not
    come. The compressed layer is taken among those of the pool."""
    base, shared, facts = context.store.entries(state.image), context.store.shared, record.facts
    assert shared is not None
    paths = {name: folder / name for name in ("list", "layer")}
    seeds = adopt.older(context.backend.state, "packages ")
    if not shared.fetch_all(record, paths, {"list": shared_lists.LARGEST_PACKED}, seeds):
        return None
    tree, rows = shared_lists.unpack(paths["list"].read_bytes(), facts["gone"], base, facts["list_digest"])
    with paths["layer"].open("rb") as stream:
        privileged = context.backend.privileged
        unpacked = apply_layer(stream, dataset.path, base, privileged=privileged, bus=context.bus)
    # Those above what was written got another time as well.
    above = {b"/".join(path.split(b"/")[:depth]) for path in rows for depth in range(path.count(b"/") + 1)}
    shared_lists.settle(dataset.path, tree, unpacked, rows | above)
    start = f"packages {state.image.tree_digest} {facts['tree_digest']} "
    adopt.adopt(context.backend.state, paths["layer"], record.output("layer"), facts["blob"], start)
    return tree


def _keep(
    context: BuildContext,
    state: BuildState,
    record: Record,
    dataset: Dataset,
    tree: FileList,
    layer: tuple[str, Mapping[str, Any]],
) -> None:
    key, inputs = layer
    facts = record.facts
    result = dict(facts["result"]) | {"image layers": [key]}
    context.backend.snapshot(dataset, Kind.LAYER, key)
    context.cache.save(
        LayerRecord(
            key=key,
            slot=cache_inputs.slot(context.spec),
            below=state.image.tree_digest,
            inputs=inputs,
            tree_digest=str(facts["tree_digest"]),
            seconds=record.seconds,
            created=time.time(),
            size=int(facts["size"]),
            inodes=int(facts["inodes"]),
            result=result,
        ),
        tree,
    )
    context.bus.count("layers_kept")


def said(shared: Shared | None, name: str) -> str:
    """Return what the shared cache did for a step, as the end of a reason; empty for nothing."""
    if shared is None:
        return ""
    if (hit := shared.hits.get(name)) is not None:
        return f"; {hit}"
    return ""
