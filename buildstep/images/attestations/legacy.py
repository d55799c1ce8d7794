"""Signatures and attestations as cosign 1 and 2 keep them: images under tags made of the image's digest.

`sha256-HEX.sig` has a layer for each signature, over a document that names repository and digest
(containers/image, docs/containers-signature.5.md, "simple signing"); `sha256-HEX.att` one for each envelope.
Layers of others stay there.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from buildstep.errors import ImageError
from buildstep.formats.oci import artifact
from buildstep.formats.oci.artifact import Artifact
from buildstep.formats.oci.spec import OCI_CONFIG, OCI_MANIFEST, Descriptor
from buildstep.net.referrers import ReferrerRegistry
from buildstep.trust.signatures.simplesigning import ANNOTATION, MEDIA_TYPE

DSSE: Final = "application/vnd.dsse.envelope.v1+json"
_NEVER: Final = "0001-01-01T00:00:00Z"

Layer = tuple[Descriptor, bytes | None]
"""A layer and its content, None for what is there already."""
Missing = Callable[[Artifact | None], Sequence[Layer]]
"""Returns the layers that a tag lacks, given what it names."""


def tag_of(digest: str, suffix: str) -> str:
    """Return the tag of an image's signatures (`sig`) or attestations (`att`)."""
    return f"{digest.replace(':', '-')}.{suffix}"


def signature_layer(payload: bytes, signature: str) -> Layer:
    """Return the layer of a signature, which is in base64, of a `simplesigning.payload`."""
    return artifact.described(MEDIA_TYPE, payload, {ANNOTATION: signature}), payload


def attestation_layer(envelope: bytes, predicate_type: str) -> Layer:
    return artifact.described(DSSE, envelope, {ANNOTATION: "", "predicateType": predicate_type}), envelope


def push(client: ReferrerRegistry, tag: str, missing: Missing) -> bool:
    """Let a tag have layers beside those that it has; return whether it had to be changed.

    missing: returns the layers that what is there lacks. Raises HttpError.
    """

    def change(data: bytes | None) -> bytes | None:
        there = None
        if data is not None:
            with contextlib.suppress(ImageError):  # else it is something else, and is replaced
                there = artifact.parse(data, tag)
        new = missing(there)
        if not new:
            return None
        for entry, content in new:
            if content is not None:
                client.push_blob(entry, content)
        rows = [*(there.layers if there else ()), *(entry for entry, _ in new)]
        config = _config(rows)
        entry = artifact.described(OCI_CONFIG, config)
        client.push_blob(entry, config)
        return artifact.make(rows, subject=None, config=entry).document

    return client.rewrite(tag, OCI_MANIFEST, change)


def lacking(layers: Sequence[Layer]) -> Missing:
    """Return what tells which of some layers are not there: by content and signature."""

    def missing(there: Artifact | None) -> list[Layer]:
        known = {_identity(row) for row in (there.layers if there else ())}
        return [layer for layer in layers if _identity(layer[0]) not in known]

    return missing


def _identity(layer: Descriptor) -> tuple[str, str]:
    return layer.digest, layer.annotations.get(ANNOTATION, "")


def _config(layers: Sequence[Descriptor]) -> bytes:
    """Return the configuration of an image of such layers: registries that check want one."""
    value: Mapping[str, Any] = {
        "architecture": "",
        "config": {},
        "created": _NEVER,
        "history": [{"created": _NEVER} for _ in layers],
        "os": "",
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
