"""What there is about a base image, before anything of it is fetched: from its registry, or beside its file.

state/images/DIGEST.evidence    what a registry had about an image that a policy has let through, for when the
                                registry does not answer; DIGEST is of the image's key. It is judged again
                                each time.
"""

from __future__ import annotations

import base64
import contextlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from buildstep.errors import ImageError
from buildstep.formats.oci.spec import OciPlatform
from buildstep.images.interface import Identity
from buildstep.images.record import ImageRecord
from buildstep.images.sources.local_file import FILE_SCHEMES, NAMED_INSIDE, path_of, split
from buildstep.images.store import ImageStore
from buildstep.images.vouched import evidence_at
from buildstep.system import sealed
from buildstep.system.private import private_dir
from buildstep.trust.verify.evidence import Evidence, RawEnvelope, RawSignature

_FORMAT: Final = 1
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_LARGEST: Final = 16 << 20

KEYRING: Final = "apt compares its packages with the archive's index, and that with the archive's keyring"
LOCKED: Final = "its packages are those of the lock, by their SHA-256"
EMPTY: Final = "it is empty"


def evidence_of_base(
    ref: str, store: ImageStore, image: ImageRecord | None
) -> tuple[Evidence, Identity | None]:
    """Return what there is about a base image, and which image that is. image: it, where it is in the store.

    Raises ImageError.
    """
    identity = store.identify(ref)
    scheme = ref.partition(":")[0]
    if identity is None:
        return _of_the_store(ref, store, image), None
    names = tuple(dict.fromkeys((ref, identity.label)))
    if scheme == "docker":
        return _of_registry(ref, identity, store), identity
    if (path := path_of(ref)) is not None and scheme in FILE_SCHEMES:
        return _of_file(ref, path, identity, store), identity
    digests = {"sha256": found[0]} if (found := _HEX.search(identity.key)) else {}
    return Evidence(name=ref, names=names, digests=digests, source=_source(ref, scheme, store)), identity


def _source(ref: str, scheme: str, store: ImageStore) -> str:
    """Return what vouches for an image that nobody signs."""
    if scheme == "scratch":
        return EMPTY
    if scheme != "mmdebstrap":
        return ""
    if ref in store.locked and store.locked[ref].base.packages:
        return LOCKED
    # A line of sources may say that no signature is to be looked at (sources.list(5)).
    mirror = store.environ.get("BUILDSTEP_APT_MIRROR", "").lower()
    return "" if "trusted" in mirror or "allow-insecure" in mirror else KEYRING


def _of_file(ref: str, path: Path, identity: Identity, store: ImageStore) -> Evidence:
    """Return what lies beside a file. Raises ImageError where it changes while it is looked at."""
    from buildstep.trust.verify.from_files import from_files

    scheme, _, locator = ref.partition(":")
    tag = split(locator, "", "")[1] if scheme in NAMED_INSIDE else ""
    found = from_files(path, tag if scheme == "oci" else "")
    parsed = store.source(ref)
    assert parsed is not None
    # It was hashed just now: what the store remembers of an unchanged file is not asked.
    again = parsed[0].identify(locator, lambda _: found.digests["sha256"])
    if again.key != identity.key:
        raise ImageError(f"{ref} changed while it was looked at", hint="build again", retryable=True)
    return replace(found, name=ref, names=tuple(dict.fromkeys((ref, identity.label, *found.names))))


# -- registries


def _of_registry(ref: str, identity: Identity, store: ImageStore) -> Evidence:
    """Return what a registry has about the image that a reference was found to mean: its tag is not asked for
    again."""
    from buildstep.images.attestations.evidence import evidence_of
    from buildstep.net.registry import Reference

    found = _HEX.search(identity.key)
    assert found is not None, "the key of an image in a registry has its digest"
    named = Reference.parse(ref)
    plain = replace(named, tag="", digest="")
    pinned = replace(plain, digest=f"sha256:{found[0]}")
    names = tuple(dict.fromkeys((str(named), str(pinned), str(plain))))
    place = evidence_at(store.folder, identity.key)
    try:
        evidence = evidence_of(
            str(pinned),
            environ=store.environ,
            limits=store.config.http,
            platform=OciPlatform.parse(store.platform),
            bus=store.bus,
        )
    except ImageError as error:
        last = kept(place) if error.retryable else None
        if last is None:
            raise
        store.bus.note(f"{error.message}; judging {ref} by what the registry had about it", level="warning")
        evidence = last
    if evidence.digests.get("oci") != found[0]:
        raise ImageError(f"{plain.host} has another image as {pinned.digest}", hint="it cannot be believed")
    return replace(evidence, name=str(replace(named, digest=pinned.digest)), names=names)


def _of_the_store(ref: str, store: ImageStore, image: ImageRecord | None) -> Evidence:
    """Return what there is about an image that is named by its uuid, or as name@version: by where it is from,
    and the digest that it had when it was imported."""
    if image is None:
        top = store.resolve(ref)[-1]
        return Evidence(name=ref, names=tuple(dict.fromkeys((ref, top.uuid))))
    # What an image calls itself is no name by which a policy goes: anybody can call one like another.
    names = tuple(dict.fromkeys((ref, image.uuid, image.label)))
    identity = Identity(key=image.key, label=image.label)
    if image.key.startswith("docker:"):
        found = _of_registry(image.label, identity, store)
        return replace(found, name=ref, names=tuple(dict.fromkeys((*names, *found.names))))
    if place := image.inputs.get("layout") or image.inputs.get("file"):
        scheme = image.key.partition(":")[0]
        tag = image.inputs.get("tag", "")
        beside = f"{scheme}:{place}{f':{tag}' if tag else ''}"
        with contextlib.suppress(ImageError, AssertionError):
            found = _of_file(beside, Path(place), identity, store)
            return replace(found, name=ref, names=tuple(dict.fromkeys((*names, *found.names))))
    digests = {"sha256": hexes[0]} if (hexes := _HEX.search(image.key)) else {}
    return Evidence(
        name=ref,
        names=names,
        digests=digests,
        source=_source(image.label, image.label.partition(":")[0], store),
    )


# -- what is kept


def keep(store: ImageStore, identity: Identity, evidence: Evidence) -> None:
    """Keep what a registry has about an image that was let through; where that fails, it is asked again."""
    place = evidence_at(store.folder, identity.key)
    value = _to_json(evidence)
    if sum(len(row["data"]) for row in (*value["envelopes"], *value["signatures"])) > _LARGEST:
        return
    with contextlib.suppress(OSError):
        private_dir(store.folder)
        sealed.write(place, value, durable=False)


def _to_json(evidence: Evidence) -> dict[str, Any]:
    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    return {
        "format": _FORMAT,
        "name": evidence.name,
        "digests": dict(evidence.digests),
        "created": evidence.created,
        "envelopes": [{"data": text(it.data), "where": it.where} for it in evidence.envelopes],
        "signatures": [
            {"kind": it.kind, "data": text(it.data), "where": it.where, "payload": text(it.payload)}
            for it in evidence.signatures
        ],
    }


def kept(place: Path) -> Evidence | None:
    """Return what is kept there; None where there is none, or it is damaged."""
    try:
        value = sealed.read(place)
        if value["format"] != _FORMAT:
            return None
        return Evidence(
            name=value["name"],
            digests=value["digests"],
            created=value["created"],
            envelopes=tuple(
                RawEnvelope(base64.b64decode(it["data"]), it["where"]) for it in value["envelopes"]
            ),
            signatures=tuple(
                RawSignature(
                    it["kind"], base64.b64decode(it["data"]), it["where"], base64.b64decode(it["payload"])
                )
                for it in value["signatures"]
            ),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
