"""Build a recipe: its sources in a clean room, its commands in the sandbox, its outputs in a store.

The result is named by its inputs, `results/<key>` in the store, so that whoever builds the same again, here
or on another machine, gets it without running anything. The key is a digest of all that decides it: the tree
of the base image, the contents of the sources, the packages, commands and variables, what is taken, and our
version. Times of files, and who owned them, are no part of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from buildstep import __version__
from buildstep.build import cache_inputs
from buildstep.build import execute as execution
from buildstep.build.plan import plan
from buildstep.build.recipe import Recipe
from buildstep.build.recipe_sources import Laid, digest_below, lay
from buildstep.cache.layers import LayerCache
from buildstep.errors import EmitError
from buildstep.events import Bus
from buildstep.files import layout, open_storage, refs
from buildstep.files.content import ContentStore
from buildstep.files.places import cache_folder
from buildstep.files.refs import Ref
from buildstep.files.session import Session
from buildstep.images import locked, trusted_base
from buildstep.images.importing import Importer
from buildstep.images.store import ImageRecord, ImageStore
from buildstep.pool.journal import open_journal
from buildstep.report.parse import load
from buildstep.spec.load import BuildSpec
from buildstep.system.remove import remove_tree
from buildstep.tree.hashing import hash_entries, spread_digests
from buildstep.tree.scan import scan

FORMAT = "buildstep.result"
FORMAT_VERSION = 1
_RESULTS = "results/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """What a recipe is built with."""

    store: ImageStore
    cache: LayerCache
    bus: Bus
    environ: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Inputs:
    """What decides a result. room: the directory of this build; key: a digest of the rest."""

    room: Path
    image: ImageRecord
    laid: list[Laid]
    key: str


def build(recipe: Recipe, spec: BuildSpec, room: Room) -> dict[str, Any]:
    """Return the report of a result: one that the store has, or that is made now.

    spec: of the recipe's m.json, with another proto directory. On any failure the refs are as they were, and
    nothing of the clean room is left. Raises BuildstepError.
    """
    begin = time.time()
    with (
        contextlib.ExitStack() as uses,
        open_journal(room.store.backend.state, f"recipe {recipe.name}") as journal,
    ):
        folder = room.store.backend.state / "work" / f"{journal.ident}-recipe"
        uses.callback(remove_tree, folder)
        journal.folder(folder)
        inputs = _inputs(recipe, spec, room, folder, Importer(room.store, journal, uses))
        target = ContentStore(
            open_storage(spec.store or "", environ=room.environ, bus=room.bus),
            bus=room.bus,
            kept=cache_folder(room.environ),
        )
        found = _recorded(target, spec, inputs.key) if spec.cache else None
        if found is None:
            report = _made(recipe, spec, room, inputs, target)
        else:
            known = found.notes["report"]
            now = {**known["inputs"], **_laid(recipe, inputs)}
            report = {**known, "recipe": recipe.source, "state": "reuse", "inputs": now}
            room.bus.note(f"{recipe.name}: the store has the result of these inputs, {found.name}")
            _name(target, spec.ref_name, found)
    return {**report, "ref": spec.ref_name, "seconds": round(time.time() - begin, 3)}


def _inputs(recipe: Recipe, spec: BuildSpec, room: Room, folder: Path, importer: Importer) -> _Inputs:
    locked.use(spec, room.store)
    trusted_base.check(spec.base, room.store, room.store.find(spec.base), spec.proof.base)
    image, _ = importer.ensure(spec.base)
    proto = folder / "proto"
    for path in (proto, folder / "git"):
        path.mkdir()
    proto.chmod(0o755)
    laid = lay(recipe.sources, proto, folder / "git", room.bus, room.environ)
    entries = scan(proto)
    hash_entries(proto, entries.values())
    spread_digests(entries)
    decisive = {
        "format": FORMAT_VERSION,
        "buildstep": __version__,
        "base": image.tree_digest,
        "sources": digest_below(entries, b""),
        "build": {key: value for key, value in recipe.build.items() if key != "image"},
        "network": spec.network,
        "source_date_epoch": spec.source_date_epoch,
    }
    if spec.lock is not None:
        decisive["lock"] = spec.lock.packages_digest()
    text = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(text.encode()).hexdigest()
    return _Inputs(room=folder, image=image, laid=laid, key=key)


def _recorded(store: ContentStore, spec: BuildSpec, key: str) -> Ref | None:
    """Return the result that the store has of these inputs.

    One with packages is good as long as the repository's answer to what they are is (`index_max_age`).
    """
    ref = refs.read(store.storage, _RESULTS + key)
    if ref is None or not isinstance(ref.notes.get("report"), Mapping):
        return None
    if spec.wants_packages and time.time() - ref.created > spec.index_max_age:
        return None
    return ref if store.storage.exists([layout.list_name(ref.list)]) else None


def _made(
    recipe: Recipe, spec: BuildSpec, room: Room, inputs: _Inputs, store: ContentStore
) -> dict[str, Any]:
    proto = inputs.room / "proto"
    spec = replace(spec, proto=proto)
    try:
        decided = plan(spec, room.store, room.cache, environ=room.environ)
        result = execution.execute(
            decided, store=room.store, cache=room.cache, bus=room.bus, environ=room.environ
        )
    finally:
        cache_inputs.proto_index(spec, room.store.backend.state).forget()
    ref = refs.get(store.storage, spec.ref_name)
    report = _report(recipe, inputs, ref, load(result.record), store)
    _name(store, _RESULTS + inputs.key, replace(ref, notes={**ref.notes, "report": report}))
    return report


def _laid(recipe: Recipe, inputs: _Inputs) -> dict[str, Any]:
    """Return what the report says of base image and sources."""
    image = inputs.image
    return {
        "image": {"ref": recipe.build["image"], "uuid": image.uuid, "tree": image.tree_digest},
        "sources": [row.to_json() for row in inputs.laid],
    }


def _report(recipe: Recipe, inputs: _Inputs, ref: Ref, record: Any, store: ContentStore) -> dict[str, Any]:
    entries = store.get_list(ref.list)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": recipe.name,
        "version": recipe.version,
        "recipe": recipe.source,
        "state": "run",
        "key": inputs.key,
        "inputs": {
            **_laid(recipe, inputs),
            "packages": [asdict(row) for row in record.packages] if recipe.build.get("packages") else [],
            "run": recipe.build.get("run", []),
            "env": recipe.build["run_options"]["env"],
            "network": recipe.build["run_options"]["network"],
        },
        "commands": [asdict(row) for row in record.commands],
        "outputs": {
            "store": store.storage.url,
            "list": ref.list,
            "tree": ref.tree,
            "entries": ref.entries,
            "bytes": ref.size,
            "files": sum(entry.kind == "f" for entry in entries.values()),
        },
        "record": os.fspath(record.path),
        "build": record.build_id,
    }


def _name(store: ContentStore, name: str, ref: Ref) -> None:
    """Let another ref mean the list of one. Raises EmitError where a garbage collection took it."""
    with Session(store, f"name {name}") as session:
        if not store.storage.exists([layout.list_name(ref.list)]):
            raise EmitError(
                f"the list {ref.list} is not in the store any more", hint="build again", retryable=True
            )
        session.set_ref(
            replace(ref, name=name, created=time.time(), version=""), refs.read(store.storage, name)
        )
