"""Read an OCI image layout, as a directory or as an archive that is never extracted."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from buildstep.errors import ImageError
from buildstep.formats.archive_index import ArchiveIndex, read_index, read_slice
from buildstep.formats.oci.spec import (
    INDEXES,
    MAX_DOCUMENT,
    REF_NAME,
    Descriptor,
    OciImage,
    OciPlatform,
    choose,
    document,
    media_type,
    parse_index,
    parse_manifest,
)
from buildstep.system.digest import HashingReader, sha256_file
from buildstep.system.files import Slice, SliceReader


class VerifyingReader(HashingReader):
    """A blob that is hashed while it is read."""

    def __init__(self, stream: SliceReader, entry: Descriptor) -> None:
        super().__init__(cast("IO[bytes]", stream), "sha256")
        self._entry = entry

    def verify(self) -> None:
        """Read the rest. Raises ImageError where the blob is not what its descriptor says."""
        real = self.finish()
        if real.size != self._entry.size or real.sha256 != self._entry.hex:
            raise ImageError(f"{self._entry.digest} is damaged: its content has another digest or size")


class Layout:
    """An OCI image layout, as a directory or in a tar archive. Use `open_layout`."""

    def __init__(self, label: str, where: Path, index: ArchiveIndex | None) -> None:
        self.label, self._where, self._index = label, where, index

    def slice(self, name: str) -> Slice:
        """Return where a file of the layout is. Raises ImageError."""
        if self._index is not None:
            found = self._index.get(name)
            if found is None:
                raise ImageError(f"{self.label} has no {name}", hint="is it an OCI archive, and complete?")
            return found
        path = self._where / name
        try:
            info = path.stat()
        except OSError as error:
            raise ImageError(f"{self.label} has no {name}: {error.strerror}") from error
        if not stat.S_ISREG(info.st_mode):
            raise ImageError(f"{self.label}: {name} is not a regular file")
        return Slice(path=path, offset=0, size=info.st_size)

    def has(self, name: str) -> bool:
        """Tell whether there is a file of that name."""
        return (
            self._index.get(name) is not None if self._index is not None else (self._where / name).is_file()
        )

    def text(self, name: str, limit: int = MAX_DOCUMENT) -> bytes:
        """Return a small file, for which no digest vouches. Raises ImageError."""
        return self._small(self.slice(name), name, limit)

    def blob(self, entry: Descriptor) -> Slice:
        found = self.slice(f"blobs/sha256/{entry.hex}")
        if found.size != entry.size:
            raise ImageError(f"{self.label}: {entry.digest} has {found.size} bytes, not {entry.size}")
        return found

    def blobs(self) -> Iterator[tuple[str, int]]:
        """Yield the blobs that are there, whether anything names them or not: hex digest and size."""
        if self._index is not None:
            for name, place in sorted(self._index.files.items()):
                folder, _, digest = name.rpartition("/")
                if folder == "blobs/sha256":
                    yield digest, place.size
            return
        with os.scandir(self._where / "blobs/sha256") as rows:
            yield from sorted((row.name, row.stat().st_size) for row in rows if row.is_file())

    def read(self, entry: Descriptor, limit: int = MAX_DOCUMENT) -> bytes:
        """Return a small blob, verified. Raises ImageError."""
        data = self._small(self.blob(entry), entry.digest, limit)
        if hashlib.sha256(data).hexdigest() != entry.hex:
            raise ImageError(f"{self.label}: {entry.digest} is damaged: its content has another digest")
        return data

    def _small(self, where: Slice, what: str, limit: int = MAX_DOCUMENT) -> bytes:
        return read_slice(where, f"{self.label}: {what}", limit=limit)

    @contextlib.contextmanager
    def open(self, entry: Descriptor) -> Iterator[VerifyingReader]:
        """Open a blob as a stream; the caller calls its `verify` before using the content for good."""
        where = self.blob(entry)
        with where.path.open("rb") as stream:
            yield VerifyingReader(SliceReader(stream, where.offset, where.size), entry)

    def tags(self) -> dict[str, Descriptor]:
        """Return the images of the layout's index by name; those without a name are under their digest."""
        entries = parse_index(self._small(self.slice("index.json"), "index.json"), f"{self.label} index.json")
        return {entry.annotations.get(REF_NAME, entry.digest): entry for entry in entries}

    def find(self, tag: str) -> Descriptor:
        """Return the image, or index, of a tag; without a tag, the only image. Raises ImageError."""
        tags = self.tags()
        if tag:
            for name, entry in tags.items():
                if tag in (name, entry.digest) or name.rpartition(":")[2] == tag:
                    return entry
        elif len(tags) == 1:
            return next(iter(tags.values()))
        names = ", ".join(sorted(tags)) or "no image"
        problem = f"has no image {tag!r}" if tag else "has several images, and none was named"
        raise ImageError(f"{self.label} {problem}", hint=f"it has {names}")

    def image(self, entry: Descriptor, wanted: OciPlatform) -> OciImage:
        """Follow a descriptor, through indexes, to the image for a platform. Raises ImageError."""
        for _ in range(4):
            data = self.read(entry)
            kind = media_type(data, entry.media_type)
            if kind not in INDEXES:
                return parse_manifest(data, entry, f"{self.label} {entry.digest[:19]}")
            entry = choose(parse_index(data, self.label), wanted, self.label)
        raise ImageError(f"{self.label}: its indexes are nested too deeply")


def verified(path: Path) -> str:
    """Return the hex SHA-256 of the index of a layout's directory, every blob of which was hashed.

    Raises ImageError where one is not what its name says, OSError.
    """
    for blob in sorted((path / "blobs/sha256").iterdir()):
        if sha256_file(blob) != blob.name:
            raise ImageError(f"{path.name}: {blob.name} is damaged: its content has another digest")
    return sha256_file(path / "index.json")


def open_layout(path: Path, label: str) -> Layout:
    """Open a layout in a directory or uncompressed archive. Raises ImageError."""
    try:
        layout = Layout(label, path, None if os.path.isdir(path) else read_index(path, label))
    except OSError as error:
        raise ImageError(f"cannot read {label}: {error.strerror}") from error
    version = document(layout._small(layout.slice("oci-layout"), "oci-layout"), f"{label} oci-layout")
    if not str(version.get("imageLayoutVersion", "")).startswith("1."):
        raise ImageError(f"{label} is an OCI layout of a version that is not known")
    return layout
