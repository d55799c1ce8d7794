"""SHA-256 of image files, kept while a file is unchanged."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from buildstep.system.digest import sha256_file
from buildstep.system.files import read_json, write_json


class FileHashes:
    """SHA-256 of single large files (base archives), remembered by what lstat says of them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def sha256(self, path: Path) -> str:
        info = path.stat()
        key = f"{info.st_dev}:{info.st_ino}:{info.st_size}:{info.st_mtime_ns}:{info.st_ctime_ns}"
        try:
            known: dict[str, str] = read_json(self._path)
        except (OSError, ValueError):
            known = {}
        if key in known:
            return known[key]
        digest = sha256_file(path)
        # A file as young as this moment may still be written within the clock's grain: not remembered.
        if time.time_ns() - info.st_ctime_ns > 2_000_000_000:
            with contextlib.suppress(OSError):
                write_json(self._path, dict([*known.items(), (key, digest)][-200:]), durable=False)
        return digest
