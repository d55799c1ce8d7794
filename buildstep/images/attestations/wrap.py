"""The forms that statements and documents have in a registry: artifacts that name the image as their subject.

A signed statement is a Sigstore bundle v0.3 (sigstore/cosign, specs/BUNDLE_SPEC.md), one for each signature;
one that nobody signed is kept as in-toto has it; a bill of materials is also there as itself, for tools that
look for its type.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from buildstep.errors import SigningError
from buildstep.formats.oci import artifact
from buildstep.formats.oci.artifact import EMPTY, EMPTY_DATA, Artifact
from buildstep.formats.oci.spec import Descriptor
from buildstep.trust import dsse
from buildstep.trust.signatures import bundle
from buildstep.trust.statements import statement
from buildstep.trust.statements.statement import PAYLOAD_TYPE

BUNDLE: Final = bundle.MEDIA_TYPE
BUNDLES: Final = bundle.MEDIA_TYPES
IN_TOTO: Final = PAYLOAD_TYPE
PREDICATE: Final = "in-toto.io/predicate-type"
_CONTENT: Final = "dev.sigstore.bundle.content"
_BUNDLE_PREDICATE: Final = "dev.sigstore.bundle.predicateType"
TITLE: Final = "org.opencontainers.image.title"

DOCUMENTS: Final[Mapping[str, str]] = {
    ".spdx.json": "application/spdx+json",
    ".spdx3.json": "application/spdx+json",
    ".cdx.json": "application/vnd.cyclonedx+json",
}
"""Types of the documents that are pushed as themselves, by how their files' names end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """A DSSE envelope that is to be pushed. hints: by which a bundle names a key, by the keyid of its
    signatures; others are named by their keyid."""

    data: bytes
    hints: Mapping[str, str] = field(default_factory=dict)

    @property
    def envelope(self) -> dsse.Envelope:
        return dsse.parse(self.data)

    @property
    def predicate_type(self) -> str:
        """The type of what is stated, empty for what is no statement."""
        with contextlib.suppress(SigningError):
            return statement.parse(self.envelope.payload).predicate_type
        return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A document that is to be pushed as itself. name: of its file."""

    name: str
    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """An artifact, and the blobs that it needs, by digest."""

    artifact: Artifact
    blobs: Mapping[str, bytes] = field(repr=False)


def pieces_of(subject: Descriptor, signed: Iterable[Signed], documents: Iterable[Document]) -> list[Piece]:
    """Return the artifacts of what is said of an image, each once; the same is the same bytes."""
    found: dict[str, Piece] = {}
    for item in signed:
        for piece in _of_envelope(subject, item):
            found.setdefault(piece.artifact.entry.digest, piece)
    for document in documents:
        piece = _piece(subject, document.media_type, document.data, {TITLE: document.name})
        found.setdefault(piece.artifact.entry.digest, piece)
    return list(found.values())


def _of_envelope(subject: Descriptor, signed: Signed) -> Iterator[Piece]:
    envelope, kind = signed.envelope, signed.predicate_type
    for signature in envelope.signatures:
        hint = signed.hints.get(signature.keyid, signature.keyid)
        data = bundle.of_signature(envelope, signature, hint)
        notes = {_CONTENT: "dsse-envelope", _BUNDLE_PREDICATE: kind}
        yield _piece(subject, BUNDLE, data, notes, titled=False)
    if not envelope.signatures:
        yield _piece(subject, IN_TOTO, envelope.payload, {PREDICATE: kind})


def _piece(
    subject: Descriptor, kind: str, data: bytes, notes: Mapping[str, str], *, titled: bool = True
) -> Piece:
    """titled: the layer has the annotations too, for tools that look at it alone."""
    layer = artifact.described(kind, data, notes if titled else None)
    made = artifact.make([layer], subject=subject, artifact_type=kind, annotations=notes)
    return Piece(artifact=made, blobs={layer.digest: data, EMPTY.digest: EMPTY_DATA})


def unpacked(data: bytes) -> Signed | None:
    """Return what a bundle of a statement was made of: `pieces_of` gives the same bundle again. None for the
    bundle of a file. Raises SigningError."""
    found = bundle.parse(data)
    if found.envelope is None:
        return None
    hints = {one.keyid: found.hint for one in found.envelope.signatures if found.hint}
    return Signed(data=dsse.dumps(found.envelope), hints=hints)


def unsigned(payload: bytes) -> bytes:
    """Return a statement that nobody signed as an envelope."""
    return dsse.seal(PAYLOAD_TYPE, payload, ())


def identity(data: bytes) -> str:
    """Return what two envelopes have in common that say the same, signed by the same: in whatever form they
    are. One that cannot be read is itself."""
    try:
        envelope = dsse.parse(data)
    except SigningError:
        return hashlib.sha256(data).hexdigest()
    parts = (
        envelope.payload_type.encode(),
        envelope.payload,
        *sorted(one.sig for one in envelope.signatures),
    )
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
