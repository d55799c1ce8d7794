"""What every form of an OCI image has: its layers, base first, and the documents that name them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from buildstep.emit import oci_config
from buildstep.emit.architecture import check_architecture
from buildstep.emit.interface import Artifact, Blob, EmitJob
from buildstep.emit.layer import LayerWriter, layer_blob
from buildstep.errors import EmitError
from buildstep.formats.chunked import ChunkWriter, Stream
from buildstep.formats.codecs import Codec, Compression, codec
from buildstep.formats.oci.spec import OCI_CONFIG, OCI_MANIFEST, Descriptor
from buildstep.system.text import json_halves

DEFAULT: Compression = "gzip"
"""What layers are compressed with where nobody says it."""

Writer = Callable[[str, bytes], None]
"""Writes a small file of the layout, by its name in there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OciImage:
    """An image whose documents are written. extra: of its artifact; config: the descriptor of its
    configuration; layers, base first; index: the layout's index."""

    extra: Mapping[str, Any]
    config: Descriptor
    layers: Sequence[Blob]
    index: bytes


class Assembly(Protocol):
    """An image that is being put together around its top layer."""

    job: EmitJob

    def finish(self, stream: Stream) -> Artifact:
        """Complete the image, once the top layer's content is written."""
        ...


class TopLayerSink(LayerWriter):
    """The top layer of an image, then the rest of the image."""

    def __init__(self, image: Assembly, out: ChunkWriter) -> None:
        super().__init__(out, image.job.changes, image.job.style)
        self._image = image

    def finish(self) -> Artifact:
        stream = self.close()
        self._image.job.bus.count("bytes_compressed", stream.compressed)
        return self._image.finish(stream)


def chosen_codec(job: EmitJob) -> Codec:
    """Return what an image's layers are compressed with, once it is known that the image can be described.

    Raises EmitError for an image of another architecture than it says.
    """
    told = oci_config.run_config(job)
    check_architecture(job, told["config"], told["architecture"])
    return codec(job.compression or DEFAULT)


def needs_top(job: EmitJob, below: Sequence[Blob]) -> bool:
    """Tell whether the top layer is one of the image's. below: all others."""
    return bool(job.changes.entries or job.changes.removed or not below)


def top_layer(job: EmitJob, path: Path, stream: Stream, used: Codec) -> Blob:
    """Describe the top layer, which was written into a file."""
    return replace(layer_blob(path, stream, used, comment=job.comment), brought=job.changes.brought())


def complete(job: EmitJob, layers: Sequence[Blob], used: Codec, write: Writer, *, tag: bool) -> OciImage:
    """Write configuration, manifest and index of an image of these layers.

    tag: name the image by its tag alone, see `oci_config.image_index`.
    """
    job = replace(job, layers=tuple(layers), more=())
    config = _document(OCI_CONFIG, oci_config.image_config(job, layers), write)
    manifest = _document(OCI_MANIFEST, oci_config.image_manifest(job, layers, config), write)
    index = compact(oci_config.image_index(job, manifest, tag=tag))
    write("index.json", index)
    extra = {
        "codec": used.ident,
        "digest": manifest.digest,
        "reference": oci_config.image_name(job),
        "config": config.digest,
        "platform": oci_config.platform_name(job),
        "layers": [f"sha256:{layer.digest}" for layer in layers],
        "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers],
        "layer_sizes": [layer.size for layer in layers],
        "layer_comments": [layer.comment for layer in layers],
        "layer_history": [list(row) for row in oci_config.told(job, layers)],
        "layer_brought": [list(layer.brought) if layer.brought else None for layer in layers],
    }
    return OciImage(extra=extra, config=config, layers=layers, index=index)


def _document(media_type: str, value: Mapping[str, Any], write: Writer) -> Descriptor:
    """Write a JSON document as a blob."""
    content = compact(value)
    digest = hashlib.sha256(content).hexdigest()
    write(blob_name(digest), content)
    return Descriptor(media_type=media_type, digest=f"sha256:{digest}", size=len(content))


def blob_name(digest: str) -> str:
    """Return where a layout has a blob. digest: in hex."""
    return f"blobs/sha256/{digest}"


LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
"""The file `oci-layout` (image-spec image-layout.md)."""


def compact(value: object) -> bytes:
    """Return a JSON document as an image has it: the same bytes for the same value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return json_halves(text).encode()


def damaged(blob: Blob) -> EmitError:
    """Return the error for a stored layer that does not have its digest."""
    return EmitError(
        f"the stored layer {blob.path} is damaged",
        hint="build again: it is removed now, and made again then",
    )
