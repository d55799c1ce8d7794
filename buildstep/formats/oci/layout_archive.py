"""Write an OCI layout as an archive: the same images give the same bytes, wherever they come from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import IO

from buildstep.formats.oci.layout_writer import LayoutWriter
from buildstep.formats.oci.spec import Descriptor
from buildstep.formats.tar_writer import END, big_size_header, header, padding
from buildstep.system.files import CHUNK, Slice
from buildstep.tree.entry import Entry


class LayoutArchive(LayoutWriter):
    """A layout that is gathered in a folder, to be written as one archive. What an earlier try has left in
    the folder is used where it belongs to the image; where it does not, it is not in the archive."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._place = folder
        self._blobs: set[str] = set()
        (folder / "index.json").unlink(missing_ok=True)

    def has(self, entry: Descriptor) -> bool:
        there = super().has(entry)
        if there:
            self._blobs.add(entry.hex)
        return there

    def add_slice(self, entry: Descriptor, content: Slice) -> None:
        super().add_slice(entry, content)
        self._blobs.add(entry.hex)

    def add_document(self, entry: Descriptor, data: bytes) -> None:
        super().add_document(entry, data)
        self._blobs.add(entry.hex)

    def pack(self, out: IO[bytes]) -> None:
        """Write the archive: blobs by their digest, the index last; all of it root's, of time 0. Raises
        OSError."""
        self._member("oci-layout", out)
        for folder in (b"blobs", b"blobs/sha256"):
            out.write(header(Entry(folder, "d", 0o755, 0, 0), epoch=0))
        for name in sorted(self._blobs):
            self._member(f"blobs/sha256/{name}", out)
        self._member("index.json", out)
        out.write(END)

    def _member(self, name: str, out: IO[bytes]) -> None:
        path = self._place / name
        size = path.stat().st_size
        out.write(big_size_header(name.encode(), size))
        with path.open("rb") as source:
            shutil.copyfileobj(source, out, CHUNK)
        out.write(padding(size))
