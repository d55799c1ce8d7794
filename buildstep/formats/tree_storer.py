"""Take the contents of an archive's files as they pass, with nothing written to a disk."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO, cast

from buildstep.errors import ImageError
from buildstep.formats.decompress import Decompressed
from buildstep.formats.tree_writer import Lister
from buildstep.system.files import CHUNK, Extents
from buildstep.system.text import shown
from buildstep.tree.entry import Entry

Take = Callable[[IO[bytes], int], str]
"""Is given a stream and the bytes in it, reads them all, and returns their hex SHA-256."""


class Storer(Lister):
    """A `Lister` that gives away the content of every file. take: takes them."""

    def __init__(self, take: Take) -> None:
        super().__init__(lambda _path: False)
        self._take = take

    def file(self, entry: Entry, extents: Extents, source: Decompressed) -> None:
        """Give a file's content away. Raises ImageError where `source` ends early, and what `take` does."""
        content = _Content(entry, extents, source)
        if self._wanted(entry):
            data = content.read()
            entry.sha256 = self._take(io.BytesIO(data), entry.size)
            self._contents[entry.sha256] = data
        else:
            entry.sha256 = self._take(cast(IO[bytes], content), entry.size)


class _Content:
    """The content of a file in an archive as a stream; what is between its extents is zeros."""

    def __init__(self, entry: Entry, extents: Extents, source: Decompressed) -> None:
        self._entry = entry
        self._source = source
        # Lengths of what follows, zeros and data by turns.
        self._rest: list[int] = []
        position = 0
        for offset, length in extents:
            self._rest += [offset - position, length]
            position = offset + length
        self._rest += [entry.size - position]
        self._zeros = True

    def readable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        """Return so many bytes, or all; fewer only at the end."""
        pieces = []
        wanted = count
        while self._rest and wanted:
            if not self._rest[0]:
                self._rest.pop(0)
                self._zeros = not self._zeros
                continue
            size = self._rest[0] if wanted < 0 else min(self._rest[0], wanted)
            piece = bytes(size) if self._zeros else self._data(min(size, CHUNK))
            pieces.append(piece)
            self._rest[0] -= len(piece)
            wanted -= len(piece) if wanted > 0 else 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer; return how many bytes there were."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _data(self, size: int) -> bytes:
        data = self._source.read(size)
        if not data:
            raise ImageError(f"the archive ends inside of {shown(self._entry.path)}")
        return data
