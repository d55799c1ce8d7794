"""SHA-256 of image files, kept while a file is unchanged (state/filehash.json)."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from buildstep.system import sealed
from buildstep.system.digest import sha256_file


class FileHashes:
    """SHA-256 of single large files (base archives), remembered by what lstat says of them.

    fresh: read each file once more, whatever earlier commands found.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[str, str] = {}
        self.fresh = False

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file. Raises OSError."""
        info = path.stat()
        key = f"{info.st_dev}:{info.st_ino}:{info.st_size}:{info.st_mtime_ns}:{info.st_ctime_ns}"
        if key in self._seen:
            return self._seen[key]
        known: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):
            known = sealed.read(self._path)
        if key in known and not self.fresh:
            return known[key]
        digest = self._seen[key] = sha256_file(path)
        # A file as young as this moment may still be written within the clock's grain: not remembered.
        if time.time_ns() - info.st_ctime_ns > 2_000_000_000:
            with contextlib.suppress(OSError):
                sealed.write(self._path, dict([*known.items(), (key, digest)][-200:]), durable=False)
        return digest
