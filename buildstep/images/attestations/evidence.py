"""What a registry has about an image, as evidence that `trust.verify` judges. Nothing of it is believed here.

Whoever may push to a repository may put anything there: how many things are read, and how large they are, is
limited, and what cannot be read is passed over with a note. Missing evidence proves nothing, so that
is safe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from buildstep.errors import ImageError, SigningError
from buildstep.events import Bus
from buildstep.formats.oci import artifact
from buildstep.formats.oci.artifact import Artifact
from buildstep.formats.oci.spec import (
    INDEXES,
    Descriptor,
    OciPlatform,
    choose,
    document,
    media_type,
    parse_index,
    parse_manifest,
)
from buildstep.images.attestations import legacy, wrap
from buildstep.net.credentials import credentials_for
from buildstep.net.errors import HttpError
from buildstep.net.http import Http, translated
from buildstep.net.referrers import ReferrerRegistry
from buildstep.net.registry import Reference
from buildstep.net.request import HttpOptions
from buildstep.trust.signatures import simplesigning
from buildstep.trust.verify.evidence import Evidence, RawEnvelope, RawSignature

MAX_BLOB: Final = 48 << 20
"""Bytes of one statement: BuildKit's limit for one is 40 MiB."""
_MAX_ALL: Final = 192 << 20
_MAX_LAYERS: Final = 256
"""Layers of a tag of cosign's that are read."""
_DEPTH: Final = 4
_SECONDS: Final = 4102444800.0

Tell = Callable[[str], None]


@dataclass
class Gathered:
    """What was found about an image, each thing once. left: bytes that may still be read."""

    envelopes: list[RawEnvelope] = field(default_factory=list)
    signatures: list[RawSignature] = field(default_factory=list)
    left: int = _MAX_ALL
    _seen: set[str] = field(default_factory=set)

    def envelope(self, data: bytes, where: str) -> None:
        if (key := wrap.identity(data)) not in self._seen:
            self._seen.add(key)
            self.envelopes.append(RawEnvelope(data, where))


def from_registry(client: ReferrerRegistry, tell: Tell, platform: OciPlatform | None = None) -> Evidence:
    """Return what a registry has about the image that the client's reference names.

    What the reference names is read once, and all else by its digest. platform: of an index, what is said of
    this platform's image counts too. tell: is given what was passed over. Raises HttpError, ImageError.
    """
    kind, data = client.manifest(client.ref.wanted)
    entry = artifact.described(kind, data)
    digests, chosen = {"oci": entry.hex}, entry
    found = Gathered()
    gather(client, entry.digest, found, tell)
    if kind in INDEXES:
        attested = _attestations_inside(data, entry.digest)
        if platform is not None:
            chosen, data = _platform_image(client, data, platform)
            digests["platform"] = chosen.hex
            gather(client, chosen.digest, found, tell)
            for row in attested.get(chosen.digest, ()):
                _take_artifact(client, _fetched(client, row), found, tell)
    pinned = replace(client.ref, tag="", digest=entry.digest)
    plain = replace(client.ref, tag="", digest="")
    names = dict.fromkeys((str(client.ref), str(pinned), str(plain)))
    return Evidence(
        name=str(replace(client.ref, digest=entry.digest)),
        names=tuple(names),
        digests=digests,
        envelopes=tuple(found.envelopes),
        signatures=tuple(found.signatures),
        created=_created(client, chosen, data),
    )


def gather(client: ReferrerRegistry, digest: str, found: Gathered, tell: Tell) -> None:
    """Add what the registry has about a manifest: referrers, and cosign's tags. Raises HttpError."""
    listed = client.referrers(digest, first=(*wrap.BUNDLES, wrap.IN_TOTO))
    for text in listed.passed:
        tell(f"{client.label}: {text}; passed over")
    for item in listed.artifacts:
        _take_artifact(client, item, found, tell)
    for suffix in ("sig", "att"):
        tag = legacy.tag_of(digest, suffix)
        there = client.tagged(tag)
        if there is None:
            continue
        try:
            item = artifact.parse(there.document, tag)
        except ImageError as error:
            tell(f"{client.label}: {error.message}; passed over")
            continue
        if len(item.layers) > _MAX_LAYERS:
            tell(f"{client.label}: {tag} has {len(item.layers)} layers; the last {_MAX_LAYERS} are read")
        for layer in item.layers[-_MAX_LAYERS:]:
            where = f"{client.label}:{tag}"
            with _passing_over(client, layer, tell):
                if layer.media_type == legacy.DSSE:
                    found.envelope(_read(client, layer, found), where)
                elif layer.media_type == simplesigning.MEDIA_TYPE and layer.annotations.get(
                    simplesigning.ANNOTATION
                ):
                    signature = layer.annotations[simplesigning.ANNOTATION].encode()
                    payload = _read(client, layer, found)
                    found.signatures.append(RawSignature("simplesigning", signature, where, payload))


def _take_artifact(client: ReferrerRegistry, item: Artifact | None, found: Gathered, tell: Tell) -> None:
    if item is None:
        return
    where = f"{client.label}@{item.entry.digest}"
    for layer in item.layers[:_MAX_LAYERS]:
        with _passing_over(client, layer, tell):
            if layer.media_type in wrap.BUNDLES:
                data = _read(client, layer, found)
                signed = wrap.unpacked(data)
                if signed is None:
                    found.signatures.append(RawSignature("bundle", data, where))
                else:
                    found.envelope(signed.data, where)
            elif layer.media_type == wrap.IN_TOTO:
                found.envelope(wrap.unsigned(_read(client, layer, found)), where)
            elif layer.media_type == legacy.DSSE:
                found.envelope(_read(client, layer, found), where)


@contextlib.contextmanager
def _passing_over(client: ReferrerRegistry, layer: Descriptor, tell: Tell) -> Iterator[None]:
    """Go on without a blob that is gone, too large, or not what it says."""
    try:
        yield
    except (SigningError, HttpError) as error:
        if isinstance(error, HttpError) and (error.retryable or error.status not in (0, 200, 404)):
            raise
        tell(f"{client.label}: {layer.digest}: {error.message}; passed over")


def _read(client: ReferrerRegistry, layer: Descriptor, found: Gathered) -> bytes:
    if layer.size > found.left:
        raise HttpError(f"more than {_MAX_ALL >> 20} MiB of evidence")
    found.left -= layer.size
    return client.read(layer, MAX_BLOB)


# -- images of several platforms --------------------------------------------------------------------------


def _platform_image(client: ReferrerRegistry, data: bytes, platform: OciPlatform) -> tuple[Descriptor, bytes]:
    """Return the image of an index for a platform, and its manifest."""
    for _ in range(_DEPTH):
        chosen = choose(parse_index(data, client.label), platform, client.label)
        kind, data = client.manifest(chosen.digest)
        if kind not in INDEXES:
            return artifact.described(kind, data), data
    raise ImageError(f"{client.label}: its indexes are nested too deeply")


def _attestations_inside(data: bytes, where: str) -> dict[str, list[Descriptor]]:
    """Return BuildKit's attestations, by the digest of the image that they are about: rows of the index
    (moby/buildkit, docs/attestations/attestation-storage.md)."""
    found: dict[str, list[Descriptor]] = {}
    for row in parse_index(data, where):
        if row.annotations.get("vnd.docker.reference.type") == "attestation-manifest":
            found.setdefault(row.annotations.get("vnd.docker.reference.digest", ""), []).append(row)
    return {digest: rows[:_DEPTH] for digest, rows in found.items()}


def _fetched(client: ReferrerRegistry, row: Descriptor) -> Artifact | None:
    try:
        return artifact.parse(client.manifest(row.digest)[1], row.digest)
    except ImageError:
        return None


def _created(client: ReferrerRegistry, entry: Descriptor, data: bytes) -> float | None:
    if media_type(data, entry.media_type) in INDEXES:
        return None
    try:
        return created_of(client.read(parse_manifest(data, entry, client.label).config))
    except ImageError:
        return None  # it is no image, and so of no age
    except HttpError as error:
        if error.retryable or error.status not in (0, 200, 404):
            raise
        return None


def created_of(config: bytes) -> float | None:
    """Return when an image's configuration says that it was made, in seconds since the epoch; None where it
    does not."""
    try:
        text = document(config, "its configuration").get("created")
        seconds = datetime.fromisoformat(str(text)).timestamp()
    except (ImageError, ValueError, OverflowError):
        return None
    return seconds if 0 < seconds < _SECONDS else None


def evidence_of(
    locator: str,
    *,
    environ: Mapping[str, str],
    limits: Mapping[str, Any] = MappingProxyType({}),
    platform: OciPlatform | None = None,
    insecure: bool = False,
    bus: Bus,
) -> Evidence:
    """Return what a registry has about docker://HOST/NAME[:TAG|@DIGEST]; see `from_registry`.

    environ: has credentials, proxies and BUILDSTEP_INSECURE_REGISTRIES; limits: of `HttpOptions`; insecure:
    no certificate is checked, and plain http will do. The digest in what it returns is the image to use: the
    tag may name another one by then. Raises ImageError, UsageError for what names no image.
    """
    ref = Reference.parse(locator)
    options = HttpOptions.of(environ, insecure=insecure, **limits)
    listed = environ.get("BUILDSTEP_INSECURE_REGISTRIES", "").split(",")
    with translated(ImageError), Http(environ=environ, options=options, bus=bus) as http:
        client = ReferrerRegistry(
            ref,
            http=http,
            credentials=credentials_for(ref.host, environ),
            plain=True if insecure or ref.host in listed else None,
        )
        return from_registry(client, partial(bus.note, level="warning"), platform)
