"""Write OCI image layouts as directories (image-spec image-layout.md): blobs first, the index last."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from buildstep.formats.oci.layout import Layout, VerifyingReader
from buildstep.formats.oci.spec import OCI_INDEX, REF_NAME, Descriptor, parse_index
from buildstep.system.files import CHUNK, Slice, SliceReader, atomic_write


class LayoutWriter:
    """A layout that is made, or gets more images. Whoever writes to one locks it for that long."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        if not (folder / "oci-layout").exists():
            self._write("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')

    def names(self) -> dict[str, Descriptor]:
        """Return the images that have a name, by it. Raises ImageError for a damaged index."""
        return {name: entry for entry in self._entries() if (name := entry.annotations.get(REF_NAME))}

    def add_blob(self, entry: Descriptor, source: Layout) -> None:
        """Copy a blob of another layout, unless it is there. Raises ImageError for a damaged one."""
        if not self.has(entry):
            self.add_slice(entry, source.blob(entry))

    def has(self, entry: Descriptor) -> bool:
        """Tell whether a blob is there."""
        target = self._folder / "blobs/sha256" / entry.hex
        return target.is_file() and target.stat().st_size == entry.size

    def add_slice(self, entry: Descriptor, content: Slice) -> None:
        """Copy a blob out of a file. Raises ImageError where it is not what its descriptor says."""
        with (
            content.path.open("rb") as stream,
            atomic_write(self._folder / "blobs/sha256" / entry.hex) as out,
        ):
            reader = VerifyingReader(SliceReader(stream, content.offset, content.size), entry)
            while data := reader.read(CHUNK):
                out.write(data)
            reader.verify()

    def add_document(self, entry: Descriptor, data: bytes) -> None:
        """Write a manifest or an index as a blob."""
        self._write(f"blobs/sha256/{entry.hex}", data)

    def name(self, name: str, entry: Descriptor) -> None:
        """Let a name mean an image or an index of images, whose blobs are there."""
        others = [it for it in self._entries() if it.annotations.get(REF_NAME) != name]
        rows = [*others, replace(entry, annotations={**entry.annotations, REF_NAME: name})]
        value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [row.to_json() for row in rows]}
        self._write("index.json", json.dumps(value, sort_keys=True, separators=(",", ":")).encode())

    def _entries(self) -> list[Descriptor]:
        path = self._folder / "index.json"
        return parse_index(path.read_bytes(), os.fspath(path)) if path.exists() else []

    def _write(self, name: str, data: bytes) -> None:
        with atomic_write(self._folder / name) as out:
            out.write(data)
