"""The files of an archive, listed as they pass and kept in a file without a name, to be read in any order."""

from __future__ import annotations

import hashlib
import os
import tempfile
from types import TracebackType
from typing import IO, Self

from buildstep.formats.tree_storer import Storer
from buildstep.system.files import CHUNK, GRAIN, write_sparse


class Spool(Storer):
    """A `Lister` that keeps the content of every file, each once. Use it as a context manager.

    The file is gone when that ends, and with the process whatever ends it. Raises OSError where the directory
    for temporary files is full.
    """

    def __init__(self) -> None:
        super().__init__(self._keep_content)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _keep_content(self, stream: IO[bytes], size: int) -> str:
        fd, begin, digest = self._file.fileno(), self._end, hashlib.sha256()
        os.lseek(fd, begin, os.SEEK_SET)
        while data := stream.read(CHUNK):
            digest.update(data)
            write_sparse(fd, data)
        name = digest.hexdigest()
        if self._places.setdefault(name, (begin, size)) == (begin, size):
            self._end = begin + size
            if size >= GRAIN:  # it may end with a hole
                os.ftruncate(fd, self._end)
        else:  # holes of what comes next must be empty
            os.ftruncate(fd, begin)
        return name

    def read_content(self, sha256: str, size: int, offset: int = 0) -> bytes:
        """Return so many bytes of a content, or what there is of them. Raises KeyError for one that is not
        there."""
        begin, length = self._places[sha256]
        wanted, at, pieces = min(size, length - offset), begin + offset, []
        while wanted > 0 and (data := os.pread(self._file.fileno(), wanted, at)):
            pieces.append(data)
            wanted, at = wanted - len(data), at + len(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
