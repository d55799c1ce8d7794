"""What is said of an image inside of an OCI layout, in blobs that no index lists: put there, and read again.

cosign keeps signatures of a layout's image so. The image, its digest and the layout's index stay as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from buildstep.errors import ImageError, SigningError
from buildstep.formats.oci import artifact
from buildstep.formats.oci.artifact import Artifact
from buildstep.formats.oci.layout import Layout, open_layout
from buildstep.formats.oci.layout_writer import LayoutWriter
from buildstep.formats.oci.spec import MAX_DOCUMENT, Descriptor
from buildstep.images.attestations import wrap
from buildstep.images.attestations.evidence import MAX_BLOB
from buildstep.images.attestations.local import Papers
from buildstep.images.attestations.wrap import Document, Signed
from buildstep.trust.verify.evidence import Evidence, RawEnvelope
from buildstep.trust.verify.from_files import from_files

_MOST: Final = 4096
"""Blobs of a layout that are looked at, whether they are referrers."""


def put(writer: LayoutWriter, image: Descriptor, papers: Papers) -> int:
    """Write what is said of an image into its layout; return how many artifacts were new. Raises OSError."""
    new = 0
    for piece in wrap.pieces_of(image, papers.signed, papers.documents):
        if writer.has(piece.artifact.entry):
            continue
        for blob in piece.artifact.blobs:
            writer.add_document(blob, piece.blobs[blob.digest])
        writer.add_document(piece.artifact.entry, piece.artifact.document)
        new += 1
    return new


def referrers_in(layout: Layout) -> dict[str, list[Artifact]]:
    """Return the artifacts of a layout by the digest of what they are about."""
    found: dict[str, list[Artifact]] = {}
    for number, (name, size) in enumerate(layout.blobs()):
        if size > MAX_DOCUMENT or number >= _MOST or len(name) != hashlib.sha256().digest_size * 2:
            continue
        with contextlib.suppress(ImageError):  # no manifest of an artifact
            entry = Descriptor(media_type="", digest=f"sha256:{name}", size=size)
            item = artifact.parse(layout.read(entry), entry.digest)
            if item.subject is not None:
                found.setdefault(item.subject.digest, []).append(item)
    return found


def papers_in(layout: Layout, digest: str) -> Papers:
    """Return what a layout says of an image of it; what cannot be read is passed over."""
    signed, documents = [], []
    for item in referrers_in(layout).get(digest, ()):
        for layer, data in _contents(layout, item):
            with contextlib.suppress(SigningError):
                if layer.media_type in wrap.BUNDLES:
                    found = wrap.unpacked(data)
                    signed += [found] if found is not None else []
                elif layer.media_type == wrap.IN_TOTO:
                    signed.append(Signed(data=wrap.unsigned(data)))
                elif layer.media_type in wrap.DOCUMENTS.values():
                    name = item.annotations.get(wrap.TITLE, "")
                    documents.append(Document(name=name, media_type=layer.media_type, data=data))
    return Papers(signed=tuple(signed), documents=tuple(documents))


def from_path(path: Path, tag: str = "") -> Evidence:
    """Return what there is about an artifact: beside it, and inside of it where it is an OCI layout.

    tag: of the image that is meant, where there are several. Raises UsageError.
    """
    found = from_files(path, tag)
    if "oci" not in found.digests or found.damage:
        return found
    with contextlib.suppress(ImageError):
        papers = papers_in(open_layout(path, path.name), f"sha256:{found.digests['oci']}")
        known = {wrap.identity(raw.data) for raw in found.envelopes}
        new = [item.data for item in papers.signed if wrap.identity(item.data) not in known]
        more = tuple(RawEnvelope(data, f"inside {path.name}") for data in new)
        return replace(found, envelopes=(*found.envelopes, *more))
    return found


def _contents(layout: Layout, item: Artifact) -> Iterator[tuple[Descriptor, bytes]]:
    for layer in item.layers:
        with contextlib.suppress(ImageError):
            yield layer, layout.read(layer, MAX_BLOB)
