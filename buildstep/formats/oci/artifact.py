"""Artifacts that say something of an image: manifests with a subject (image-spec 1.1, manifest.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from buildstep.errors import ImageError
from buildstep.formats.oci.spec import OCI_MANIFEST, Descriptor, descriptor, document

EMPTY_DATA = b"{}"
EMPTY = Descriptor(
    media_type="application/vnd.oci.empty.v1+json",
    digest="sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    size=len(EMPTY_DATA),
)
"""The configuration of what needs none (manifest.md, "Guidance for an Empty Descriptor")."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """An artifact. entry: of its manifest, whose bytes are document; subject: what it is about, None where
    only its tag says so."""

    entry: Descriptor
    document: bytes
    artifact_type: str
    subject: Descriptor | None
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        return (self.config, *self.layers)

    def listed(self) -> dict[str, Any]:
        """Return its row in an index of referrers: its descriptor, with its type and annotations."""
        row = self.entry.to_json() | {"artifactType": self.artifact_type}
        return row | ({"annotations": dict(self.annotations)} if self.annotations else {})


def described(media_type: str, data: bytes, annotations: Mapping[str, str] | None = None) -> Descriptor:
    """Return the descriptor of content that is in memory."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return Descriptor(
        media_type=media_type, digest=digest, size=len(data), annotations=dict(annotations or {})
    )


def make(
    layers: Sequence[Descriptor],
    *,
    subject: Descriptor | None,
    artifact_type: str = "",
    config: Descriptor = EMPTY,
    annotations: Mapping[str, str] | None = None,
) -> Artifact:
    """Return an artifact of layers; the same ones give the same bytes."""
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    if artifact_type:
        value["artifactType"] = artifact_type
    if annotations:
        value["annotations"] = dict(annotations)
    if subject is not None:
        # What a subject's descriptor had in an index, its platform say, is none of the artifact's.
        value["subject"] = {
            "mediaType": subject.media_type,
            "digest": subject.digest,
            "size": subject.size,
        }
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return Artifact(
        entry=described(OCI_MANIFEST, data),
        document=data,
        artifact_type=artifact_type or config.media_type,
        subject=subject,
        config=config,
        layers=tuple(layers),
        annotations=dict(annotations or {}),
    )


def parse(data: bytes, where: str) -> Artifact:
    """Read the manifest of an artifact, whatever its layers are. Raises ImageError."""
    value = document(data, where)
    rows, subject = value.get("layers"), value.get("subject")
    if not isinstance(rows, list):
        raise ImageError(f"{where} has no layers")
    config = descriptor(value.get("config"), f"{where} config")
    kind, notes = value.get("artifactType"), value.get("annotations")
    return Artifact(
        entry=described(str(value.get("mediaType") or OCI_MANIFEST), data),
        document=data,
        # Without a type of its own, it has that of its configuration (manifest.md, "artifactType").
        artifact_type=kind if isinstance(kind, str) and kind else config.media_type,
        subject=None if subject is None else descriptor(subject, f"{where} subject"),
        config=config,
        layers=tuple(descriptor(row, f"{where} layers[{i}]") for i, row in enumerate(rows)),
        annotations={k: v for k, v in notes.items() if isinstance(v, str)} if isinstance(notes, dict) else {},
    )
