"""Push what is said of an image, before a tag names it: whoever gets the image by its tag finds all of that.

Signatures and attestations come twice: as referrers, for tools of today, and under cosign's tags, for older
ones. Doing it again changes nothing. What others have put there stays.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Sequence
from typing import Final, Literal

from buildstep.errors import SigningError
from buildstep.formats.oci import artifact
from buildstep.formats.oci.artifact import Artifact
from buildstep.formats.oci.spec import Descriptor
from buildstep.images.attestations import legacy, wrap
from buildstep.images.attestations.evidence import Gathered, gather
from buildstep.images.attestations.legacy import Layer
from buildstep.images.attestations.local import NOBODY, SIGNATURE, Papers, Signing
from buildstep.images.attestations.wrap import Piece
from buildstep.net.errors import HttpError
from buildstep.net.referrers import ReferrerRegistry
from buildstep.trust.keys.interface import Signer
from buildstep.trust.signatures import simplesigning
from buildstep.trust.verify.evidence import RawEnvelope

Forms = Literal["all", "referrers", "tags", "none"]
"""As what attestations are pushed: registries that do not take artifacts with a subject take cosign's tags,
and not everybody likes those among the tags of images."""
_ROUNDS: Final = 6


def there_of(client: ReferrerRegistry, image: Descriptor) -> tuple[RawEnvelope, ...]:
    """Return the envelopes that a registry has about an image."""
    found = Gathered()
    gather(client, image.digest, found, lambda _text: None)
    return tuple(found.envelopes)


def attest(
    client: ReferrerRegistry,
    image: Descriptor,
    papers: Papers,
    signing: Signing = NOBODY,
    forms: Forms = "all",
) -> dict[str, str]:
    """Push what is said of an image that is there under its digest; return what was new, name to digest.

    papers: signed already where that is wanted; signing: makes the signatures that older tools read, which
    are over the name of the repository; forms: which of the two. Raises HttpError, SigningError.
    """
    if forms == "none":
        return {}
    pieces = wrap.pieces_of(image, papers.signed, papers.documents) if forms != "tags" else []
    if forms == "referrers":
        papers, signing = Papers(), NOBODY
    done: dict[str, str] = {}
    for _ in range(_ROUNDS):
        new = _once(client, image, pieces, papers, signing)
        done |= new
        if not new:
            return done
    raise HttpError(
        f"{client.label}: what is said of {image.digest} is written over by others all the time",
        hint="publish again",
        retryable=True,
    )


def _once(
    client: ReferrerRegistry, image: Descriptor, pieces: Sequence[Piece], papers: Papers, signing: Signing
) -> dict[str, str]:
    """Push what is not there. Another client that writes at the same time may take it away again, where the
    registry does not mind: then the next look finds that."""
    done = {
        f"{item.entry.hex[:12]} {item.artifact_type}": item.entry.digest
        for item in push_pieces(client, image, pieces)
    }
    attestations = _attestation_layers(papers)
    if attestations:
        tag = legacy.tag_of(image.digest, "att")
        if legacy.push(client, tag, legacy.lacking(attestations)):
            done[tag] = _named(client, tag)
    if signing:
        tag = legacy.tag_of(image.digest, "sig")
        if _push_signatures(client, tag, image, signing):
            done[tag] = _named(client, tag)
    return done


def _named(client: ReferrerRegistry, tag: str) -> str:
    there = client.resolve(tag)
    return there.digest if there else ""


def push_pieces(client: ReferrerRegistry, image: Descriptor, pieces: Sequence[Piece]) -> list[Artifact]:
    """Push artifacts with their blobs; return those that were not there."""
    if not pieces:
        return []
    listed = client.listing(image.digest).digests
    new = [piece for piece in pieces if piece.artifact.entry.digest not in listed]
    blobs = {blob.digest: (blob, piece.blobs[blob.digest]) for piece in new for blob in piece.artifact.blobs}
    for blob, data in blobs.values():
        client.push_blob(blob, data)
    # All of them: a list that clients keep may have lost some while the blobs were sent.
    client.attach([piece.artifact for piece in pieces])
    return [piece.artifact for piece in new]


def _attestation_layers(papers: Papers) -> list[Layer]:
    """Return the layers of cosign's tag: a signed statement each; a bare signature has a tag of its own."""
    return [
        legacy.attestation_layer(item.data, item.predicate_type)
        for item in papers.signed
        if item.envelope.signatures and item.predicate_type not in ("", SIGNATURE)
    ]


def _push_signatures(client: ReferrerRegistry, tag: str, image: Descriptor, signing: Signing) -> bool:
    payload = simplesigning.payload(client.label, image.digest)
    digest = artifact.described(simplesigning.MEDIA_TYPE, payload).digest

    def missing(there: Artifact | None) -> list[Layer]:
        """Return the signatures of those keys that have none there: not each is the same every time."""
        rows = [row for row in (there.layers if there else ()) if row.digest == digest]
        return [
            legacy.signature_layer(payload, base64.b64encode(signing.of(payload, signer)).decode())
            for signer in signing.signers
            if not any(_is_by(signer, row, payload) for row in rows)
        ]

    return legacy.push(client, tag, missing)


def _is_by(signer: Signer, row: Descriptor, payload: bytes) -> bool:
    try:
        signature = base64.b64decode(row.annotations.get(simplesigning.ANNOTATION, ""), validate=True)
    except (ValueError, binascii.Error):
        return False
    with contextlib.suppress(SigningError):
        return signer.public.verify(payload, signature)
    return False
