"""The content of a repository's files: each is read once, whoever asks for its text or its digest."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


class Contents:
    """Files below a directory, by their paths relative to it. reads: how many files were read."""

    def __init__(self, root: Path) -> None:
        self.root = os.fspath(root)
        self.reads = 0
        self._digests: dict[str, str] = {}
        self._texts: dict[str, bytes] = {}

    def text(self, path: str) -> str:
        """Return a file's text. Raises OSError; UnicodeDecodeError where it is not UTF-8."""
        if path not in self._texts:
            self._texts[path] = data = self._read(path)
            self._digests[path] = hashlib.sha256(data).hexdigest()
        return self._texts[path].decode()

    def digest(self, path: str) -> str:
        """Return what decides a file's content: `TYPE MODE DIGEST`, of a link its text. Raises OSError.

        TYPE is `f` or `l`; MODE is `x` for what its owner may execute, else `-`: the other bits differ
        between checkouts of the same commit.
        """
        full = os.path.join(self.root, path)
        info = os.lstat(full)
        if (info.st_mode & 0o170000) == 0o120000:
            return "l - " + hashlib.sha256(os.fsencode(os.readlink(full))).hexdigest()
        if path not in self._digests:
            if info.st_size > _LARGE:
                self.reads += 1
                with open(full, "rb") as stream:
                    self._digests[path] = hashlib.file_digest(stream, "sha256").hexdigest()
            else:
                self._digests[path] = hashlib.sha256(self._read(path, info.st_size)).hexdigest()
        return f"f {'x' if info.st_mode & 0o100 else '-'} {self._digests[path]}"

    def _read(self, path: str, size: int = 0) -> bytes:
        self.reads += 1
        # Without an object for each of a hundred thousand small files.
        fd = os.open(os.path.join(self.root, path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(fd, size + 1)
            if len(data) > size:  # it has grown, or nobody knew how long it is
                while more := os.read(fd, _LARGE):
                    data += more
            return data
        finally:
            os.close(fd)


_LARGE = 1 << 20
"""Bytes from which on a file is hashed piece by piece."""
