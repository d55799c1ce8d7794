"""The file of a stored layer, read in parts, and only where it is what was written."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

from buildstep.errors import EmitError
from buildstep.formats.codecs import check_of


class ChunkLost(EmitError):
    """A chunk of a stored layer is not what its record says."""


class StoredLayer:
    """A stored layer's file. `close` it.

    digest: the hex SHA-256 that it must have before anything is read of it; empty where the checksum of each
    part is enough. Raises OSError.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._digest = digest
        self._sound: bool | None = None if digest else True
        self._lock = threading.Lock()

    def close(self) -> None:
        os.close(self._fd)

    def read(self, offset: int, length: int) -> bytes:
        """Return a part of the file. Raises ChunkLost, OSError."""
        with self._lock:
            if self._sound is None:
                with open(self._fd, "rb", buffering=0, closefd=False) as stream:
                    self._sound = hashlib.file_digest(stream, "sha256").hexdigest() == self._digest
        if not self._sound:
            raise ChunkLost("a stored layer is damaged")
        return os.pread(self._fd, length, offset)

    def read_checked(self, offset: int, length: int, check: int) -> bytes:
        """Return a part of the file that has this CRC-32. Raises ChunkLost, OSError."""
        part = self.read(offset, length)
        if len(part) != length or check_of(part) != check:
            raise ChunkLost("a part of a stored layer is damaged")
        return part
