"""SHA-256 of image files, kept while a file is unchanged (state/filehash.json)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path

from buildstep.events import Bus, Reading
from buildstep.system import sealed


class FileHashes:
    """SHA-256 of single large files (base archives), remembered by what lstat says of them.

    fresh: read each file once more, whatever earlier commands found. bus: shows how far that is.
    """

    def __init__(self, path: Path, bus: Bus | None = None) -> None:
        self._path = path
        self._bus = bus or Bus()
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
        digest = self._seen[key] = self._read(path, info.st_size)
        # A file as young as this moment may still be written within the clock's grain: not remembered.
        if time.time_ns() - info.st_ctime_ns > 2_000_000_000:
            with contextlib.suppress(OSError):
                sealed.write(self._path, dict([*known.items(), (key, digest)][-200:]), durable=False)
        return digest

    def _read(self, path: Path, size: int) -> str:
        with path.open("rb") as stream:
            done = lambda: Reading(os.lseek(stream.fileno(), 0, os.SEEK_CUR))  # noqa: E731
            with self._bus.job(f"read {path.name}", size, read=done):
                return hashlib.file_digest(stream, "sha256").hexdigest()
