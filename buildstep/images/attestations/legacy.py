"""Signatures and attestations as cosign 1 and 2 keep them: images under tags made of the image's digest.

`sha256-HEX.sig` has a layer for each signature, over a document that names repository and digest
(containers/image, docs/containers-signature.5.md, "simple signing"); `sha256-HEX.att` one for each envelope.
Layers of others stay there.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from buildstep.errors import ImageError
from buildstep.formats.oci import artifact
from buildstep.formats.oci.artifact import Artifact
from buildstep.formats.oci.spec import OCI_CONFIG, OCI_MANIFEST, Descriptor
from buildstep.net.referrers import ReferrerRegistry

SIMPLE: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
DSSE: Final = "application/vnd.dsse.envelope.v1+json"
SIGNATURE: Final = "dev.cosignproject.cosign/signature"
_TYPE: Final = "cosign container image signature"
_NEVER: Final = "0001-01-01T00:00:00Z"

Layer = tuple[Descriptor, bytes]


def tag_of(digest: str, suffix: str) -> str:
    """Return the tag of an image's signatures (`sig`) or attestations (`att`)."""
    return f"{digest.replace(':', '-')}.{suffix}"


def payload_of(repository: str, digest: str) -> bytes:
    """Return the document that is signed. repository: HOST/NAME, which containers/image compares."""
    value = {
        "critical": {
            "identity": {"docker-reference": repository},
            "image": {"docker-manifest-digest": digest},
            "type": _TYPE,
        },
        "optional": None,
    }
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def signature_layer(payload: bytes, signature: bytes) -> Layer:
    text = base64.b64encode(signature).decode()
    return artifact.described(SIMPLE, payload, {SIGNATURE: text}), payload


def attestation_layer(envelope: bytes, predicate_type: str) -> Layer:
    return artifact.described(DSSE, envelope, {SIGNATURE: "", "predicateType": predicate_type}), envelope


def push(
    client: ReferrerRegistry,
    tag: str,
    layers: Sequence[Layer],
    missing: Callable[[Artifact | None, Sequence[Layer]], Sequence[Layer]],
) -> bool:
    """Let a tag have layers beside those that it has; return whether it had to be changed.

    missing: of some layers those that what is there lacks. Raises HttpError.
    """

    def change(data: bytes | None) -> bytes | None:
        there = None
        if data is not None:
            with contextlib.suppress(ImageError):  # else it is something else, and is replaced
                there = artifact.parse(data, tag)
        new = missing(there, layers)
        if not new:
            return None
        for entry, content in new:
            client.push_blob(entry, content)
        rows = [*(there.layers if there else ()), *(entry for entry, _ in new)]
        config = _config(rows)
        entry = artifact.described(OCI_CONFIG, config)
        client.push_blob(entry, config)
        return artifact.make(rows, subject=None, config=entry).document

    return client.rewrite(tag, OCI_MANIFEST, change)


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
