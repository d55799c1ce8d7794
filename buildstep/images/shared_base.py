"""Base images that other agents have made, taken from the shared cache, and what is to be said of one's own.

What makes a root of a suite is the suite with its options, and what its repositories have: their Release
files, whose digests are a part of the key. Which files these are is known from the first root that somebody
made of the suite; so an agent with an empty pool asks for that, then for the Release files, then for the root
of just these. A base that is locked is looked for by the digest of its tree.

The layer is unpacked, compared with the list that came beside it, and gets its times from that: the tree is
the same, to the nanosecond, as that of the agent which made it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from buildstep import __version__
from buildstep.cache import adopt, shared_lists
from buildstep.cache.shared import CREDENTIALS, WRONG, Hit, Shared, record_key, text_of
from buildstep.errors import SharedCacheError
from buildstep.images.freshness import RELEASE
from buildstep.images.interface import SourceContext, SourceImage
from buildstep.images.record import ImageRecord
from buildstep.pool.interface import Dataset, Kind
from buildstep.rootfs.installers.apt_sources import Sources
from buildstep.rootfs.interface import Package
from buildstep.spec.lock import MadeOf
from buildstep.system.digest import sha256_bytes
from buildstep.tree.entry import FileList

if TYPE_CHECKING:
    from buildstep.cache.remote.interface import Kind as RecordKind
    from buildstep.cache.remote.interface import Record, Wanted
    from buildstep.images.store import ImageStore

MADE: Final = "mmdebstrap"
"""The scheme of bases that are made: to fetch them costs a fraction of that. Others are fetched anyway."""

_FORMAT: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A base of the shared cache. release: a digest of the Release files, asked for just now; empty where a
    lock says which base it is."""

    ref: str
    record: Record
    release: str = ""


# -- keys ---------------------------------------------------------------------------------------------------


def _mirror(environ: Mapping[str, str]) -> str:
    """Return the mirror that a root is made from, which its sources name; without who calls."""
    mirror = environ.get("BUILDSTEP_APT_MIRROR", "")
    return f"sha256:{sha256_bytes(mirror.encode())}" if "@" in mirror else mirror


def _sources_inputs(identity: str, environ: Mapping[str, str]) -> dict[str, Any]:
    return {"sources of": identity, "mirror": _mirror(environ), "format": _FORMAT}


def _inputs(
    identity: str, environ: Mapping[str, str], *, release: str = "", tree: str = ""
) -> dict[str, Any]:
    """Return what decides the bytes of a base: which it is, by its Release files or by its tree."""
    which = {"tree": tree} if tree else {"release": release}
    return {
        "base": identity, "mirror": _mirror(environ), "buildstep": __version__, "format": _FORMAT, **which,
    }  # fmt: skip


def wanted_by_tree(identity: str, tree: str, environ: Mapping[str, str]) -> Wanted:
    """Return kind and key of the record of a base that is known by its tree. identity: its key in a pool."""
    return record_key("base", _inputs(identity, environ, tree=tree))


# -- looking up ---------------------------------------------------------------------------------------------


def look_up(shared: Shared, store: ImageStore, ref: str) -> Found | None:
    """Return the base that a reference means now, if the shared cache has it; asks its repositories for their
    Release files. Raises ImageError, OSError where these do not answer."""
    parsed = store.source(ref)
    if parsed is None or parsed[0].scheme != MADE or (identity := store.identify(ref)) is None:
        return None
    locked = store.locked.get(ref)
    if locked is not None:
        wanted = wanted_by_tree(identity.key, locked.base.tree_digest, store.environ)
        found = shared.find([wanted]).get(wanted)
        return Found(ref=ref, record=found) if found is not None else None
    pointer = record_key("answer", _sources_inputs(identity.key, store.environ))
    told = shared.find([pointer]).get(pointer)
    if told is None:
        shared.missing["base"] = shared.why(pointer, f"nobody has put {ref} there yet")
        return None
    sources = Sources(files={str(path): str(text) for path, text in told.facts["sources"].items()})
    release = store.freshness.release_of(sources)
    wanted = record_key("base", _inputs(identity.key, store.environ, release=release))
    found = shared.find([wanted]).get(wanted)
    if found is None:
        changed = f"the Release files of {ref} changed since it was put there"
        shared.missing["base"] = shared.why(wanted, changed)
        return None
    return Found(ref=ref, record=found, release=release)


def dataset(
    store: ImageStore, ref: str, ident: str, context: SourceContext
) -> tuple[Dataset, SourceImage] | None:
    """Put a base that the shared cache has into a new dataset; None where it has none, or no good one."""
    shared = store.shared
    found = shared.settled().get("base") if shared is not None else None
    if shared is None or not isinstance(found, Found) or found.ref != ref:
        return None
    made = store.backend.create(ident)
    image = take(shared, found.record, made.path, context, store.backend.state)
    if image is None:
        store.backend.destroy(Kind.BUILD, ident)
        return None
    return made, image


# -- taking -------------------------------------------------------------------------------------------------


def take(
    shared: Shared, record: Record, into: Path, context: SourceContext, state: Path
) -> SourceImage | None:
    """Unpack a base of the shared cache into an empty directory; None where that came to nothing, and the
    directory is to be thrown away. state: of the pool, which gets the compressed layer as well."""
    begin = time.monotonic()
    try:
        return _take(shared, record, into, context, state, begin)
    except SharedCacheError:  # it is demanded
        raise
    except WRONG as error:
        shared.refused("base", text_of(error))
        return None


def _take(
    shared: Shared, record: Record, into: Path, context: SourceContext, state: Path, begin: float
) -> SourceImage | None:
    paths = {name: context.cache / f"shared-{name}" for name in ("image", "list", "layer")}
    if not shared.fetch_all(record, paths, dict.fromkeys(("image", "list"), shared_lists.LARGEST_PACKED)):
        return None
    size = sum(output.size for output in record.outputs)
    facts, about = record.facts, json.loads(paths["image"].read_bytes())
    entries, _ = shared_lists.unpack(paths["list"].read_bytes(), (), {}, str(facts["list_digest"]))
    with paths["layer"].open("rb") as stream:
        unpacked = context.unpack(stream, into)
    shared_lists.settle(into, entries, unpacked, entries)
    start = f"base {facts['list_digest']} "
    adopt.adopt(state, paths["layer"], record.output("layer"), facts["blob"], start)
    made = _image(about, entries)
    shared.hit("base", Hit(size=size, seconds=time.monotonic() - begin, cost=record.seconds), record)
    return made


def _image(about: Mapping[str, Any], entries: FileList) -> SourceImage:
    return SourceImage(
        manifest=about["manifest"],
        inputs=about["inputs"],
        packages=tuple(Package(**row) for row in about["packages"]),
        entries=entries,
        config=about["config"],
        made_of=MadeOf.from_json(about["made_of"]) if about["made_of"] else None,
    )


# -- giving -------------------------------------------------------------------------------------------------


def is_made(image: ImageRecord) -> bool:
    """Say whether an image is worth to be put there, and may be: not one whose sources of packages
    say who calls."""
    texts = image.made_of.sources.values() if image.made_of is not None else ()
    if any(CREDENTIALS.search(text) for text in texts):
        return False
    return image.key.startswith(f"{MADE}:") and not image.layers and bool(image.inputs.get(RELEASE))


def _inputs_of(image: ImageRecord, environ: Mapping[str, str]) -> list[tuple[RecordKind, dict[str, Any]]]:
    """Return kind and inputs of each record that there is of a base."""
    found: list[tuple[RecordKind, dict[str, Any]]] = [
        ("base", _inputs(image.key, environ, release=image.inputs.get(RELEASE, ""))),
        ("base", _inputs(image.key, environ, tree=image.tree_digest)),
    ]
    if image.made_of is not None and image.made_of.sources:
        found.append(("answer", _sources_inputs(image.key, environ)))
    return found


def wanted_of(image: ImageRecord, environ: Mapping[str, str]) -> list[Wanted]:
    """Return kind and key of each record of a base."""
    return [record_key(kind, inputs) for kind, inputs in _inputs_of(image, environ)]


def records_of(
    image: ImageRecord, entries: FileList, blob: Path, environ: Mapping[str, str], seconds: float
) -> list[tuple[Record, dict[str, Path | bytes]]]:
    """Return the records of a base, each with its files. seconds: what it cost to make. Raises OSError, and
    ValueError for a damaged record of the layer."""
    from buildstep.cache.remote.interface import Output, Record

    facts = adopt.facts_of(blob)
    rows, _ = shared_lists.pack(entries, {})
    about = {
        "manifest": {name: value for name, value in image.manifest.items() if name != "uuid"},
        "inputs": dict(image.inputs),
        "packages": [asdict(row) for row in image.packages],
        "config": dict(image.config),
        "made_of": asdict(image.made_of) if image.made_of else None,
    }
    files: dict[str, Path | bytes] = {"image": json.dumps(about).encode(), "list": rows, "layer": blob}
    outputs = [
        Output(name=name, digest=sha256_bytes(data), size=len(data))
        for name, data in files.items()
        if isinstance(data, bytes)
    ]
    layer = Output(name="layer", digest=facts["digest"], size=facts["size"], media=facts["media_type"])
    known = {
        "list_digest": image.list_digest, "tree_digest": image.tree_digest, "installer": image.installer,
        "blob": facts,
    }  # fmt: skip
    found: list[tuple[Record, dict[str, Path | bytes]]] = []
    for name, inputs in _inputs_of(image, environ):
        kind, key = record_key(name, inputs)
        record = Record(kind=kind, key=key, inputs=inputs)
        if kind == "base":
            slot = sha256_bytes(image.key.encode())
            record = replace(record, outputs=(*outputs, layer), facts=known, seconds=seconds, slot=slot)
            found.append((record, files))
        elif image.made_of is not None:
            found.append((replace(record, facts={"sources": dict(image.made_of.sources)}), {}))
    return found
