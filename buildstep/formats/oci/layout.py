"""Read an OCI image layout, as a directory or as an archive that is never extracted."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from buildstep.errors import ImageError
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
from buildstep.system.digest import HashingReader
from buildstep.system.files import Slice


class VerifyingReader(HashingReader):
    """A blob, read from where an open file stands, and hashed on the way."""

    def __init__(self, stream: IO[bytes], entry: Descriptor) -> None:
        super().__init__(stream, "sha256")
        self._entry = entry
        self._left = entry.size

    def read(self, size: int = -1, /) -> bytes:
        data = super().read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data

    def verify(self) -> None:
        """Read the rest. Raises ImageError where the blob is not what its descriptor says."""
        real = self.finish()
        if real.size != self._entry.size or real.sha256 != self._entry.hex:
            raise ImageError(f"{self._entry.digest} is damaged: its content has another digest or size")


class Layout:
    """An OCI image layout, as a directory or in a tar archive. Use `open_layout`."""

    def __init__(self, label: str, where: Path, members: Mapping[str, Slice] | None) -> None:
        self.label, self._where, self._members = label, where, members

    def slice(self, name: str) -> Slice:
        """Return where a file of the layout is. Raises ImageError."""
        if self._members is not None:
            found = self._members.get(name)
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

    def blob(self, entry: Descriptor) -> Slice:
        found = self.slice(f"blobs/sha256/{entry.hex}")
        if found.size != entry.size:
            raise ImageError(f"{self.label}: {entry.digest} has {found.size} bytes, not {entry.size}")
        return found

    def read(self, entry: Descriptor) -> bytes:
        """Return a small blob, verified. Raises ImageError."""
        data = self._small(self.blob(entry), entry.digest)
        if hashlib.sha256(data).hexdigest() != entry.hex:
            raise ImageError(f"{self.label}: {entry.digest} is damaged: its content has another digest")
        return data

    def _small(self, where: Slice, what: str) -> bytes:
        if where.size > MAX_DOCUMENT:
            raise ImageError(f"{self.label}: {what} has {where.size} bytes, more than a document may have")
        with where.path.open("rb") as stream:
            stream.seek(where.offset)
            return stream.read(where.size)

    @contextlib.contextmanager
    def open(self, entry: Descriptor) -> Iterator[VerifyingReader]:
        """Open a blob as a stream; the caller calls its `verify` before using the content for good."""
        where = self.blob(entry)
        with where.path.open("rb") as stream:
            stream.seek(where.offset)
            yield VerifyingReader(stream, entry)

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


def open_layout(path: Path, label: str) -> Layout:
    """Open a layout in a directory or archive. Raises ImageError."""
    try:
        layout = Layout(label, path, None if path.is_dir() else _members(path, label))
    except OSError as error:
        raise ImageError(f"cannot read {label}: {error.strerror}") from error
    version = document(layout._small(layout.slice("oci-layout"), "oci-layout"), f"{label} oci-layout")
    if not str(version.get("imageLayoutVersion", "")).startswith("1."):
        raise ImageError(f"{label} is an OCI layout of a version that is not known")
    return layout


def _members(path: Path, label: str) -> dict[str, Slice]:
    """Return where each regular file of an archive is. Nothing is extracted, so no name in it can do harm."""
    found: dict[str, Slice] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = os.path.normpath(member.name)
                if not member.isreg() or member.sparse is not None:
                    continue
                if name in found:
                    raise ImageError(
                        f"{label} has two members named {name}", hint="such an archive is refused"
                    )
                found[name] = Slice(path=path, offset=member.offset_data, size=member.size)
    except (tarfile.TarError, EOFError) as error:
        raise ImageError(
            f"{label} is not an OCI archive: {error}",
            hint="an OCI archive is a plain tar; uncompress it first",
        ) from error
    if "oci-layout" not in found and "manifest.json" in found:
        raise ImageError(
            f"{label} is a `docker save` archive", hint="skopeo copy docker-archive:A oci-archive:B"
        )
    return found
