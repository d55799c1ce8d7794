"""The content of a repository's files: each is read once, whoever asks for its text or its digest.

Digests of large files are remembered from one build to the next. One is used again only if device, inode,
size and both times of the file are as they were when it was read, and it was at rest by then.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from buildstep.system.files import read_json, write_json


class Contents:
    """Files below a directory, by their paths relative to it.

    reads: how many files were read. index: where digests of large files are kept, None for nowhere.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.fspath(root)
        self.reads = 0
        self.index: Path | None = None
        self._digests: dict[str, str] = {}
        self._texts: dict[str, bytes] = {}
        self._seen: dict[str, list[Any]] = {}

    def text(self, path: str) -> str:
        """Return a file's text. Raises OSError; UnicodeDecodeError where it is not UTF-8."""
        if path not in self._texts:
            fd = os.open(f"{self.root}/{path}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._texts[path] = data = self._read(fd)
            finally:
                os.close(fd)
            self._digests[path] = hashlib.sha256(data).hexdigest()
        return self._texts[path].decode()

    def digest(self, path: str) -> str:
        """Return what decides a file's content: `TYPE MODE DIGEST`, of a link its text. Raises OSError.

        TYPE is `f` or `l`; MODE is `x` for what its owner may execute, else `-`: the other bits differ
        between checkouts of the same commit.
        """
        full = f"{self.root}/{path}"
        # One look-up of the path, and no object for each of a hundred thousand small files.
        try:
            fd = os.open(full, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return "l - " + hashlib.sha256(os.fsencode(os.readlink(full))).hexdigest()
        try:
            info = os.fstat(fd)
            if path not in self._digests:
                if info.st_size > _LARGE:
                    self._digests[path] = self._large(path, info)
                else:
                    self._digests[path] = hashlib.sha256(self._read(fd, info.st_size)).hexdigest()
        finally:
            os.close(fd)
        return f"f {'x' if info.st_mode & 0o100 else '-'} {self._digests[path]}"

    def save(self) -> None:
        """Write down the digests of large files, for the next one who asks. Raises OSError."""
        if self.index is None or not self._seen:
            return
        kept = {
            path: row for path, row in self._known.items() if os.path.lexists(os.path.join(self.root, path))
        }
        if (files := {**kept, **self._seen}) != self._known:
            write_json(self.index, {"format": FORMAT, "files": files}, durable=False)

    @cached_property
    def _known(self) -> dict[str, list[Any]]:
        """What the index says: by path, what the file was like, and its digest."""
        try:
            value = read_json(self.index) if self.index is not None else {}
            return dict(value["files"]) if value["format"] == FORMAT else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _large(self, path: str, info: os.stat_result) -> str:
        """Return the digest of a large file: read, or as it is known."""
        now = [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]
        known = self._known.get(path)
        if isinstance(known, list) and known[:-1] == now:
            self._seen[path] = known
            return str(known[-1])
        self.reads += 1
        began = time.time_ns()
        with open(os.path.join(self.root, path), "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            after = os.fstat(stream.fileno())
        # A file that is still written may keep its times, as coarse as they are, and change.
        if after.st_ctime_ns == info.st_ctime_ns and began - max(now[3:]) > _AT_REST:
            self._seen[path] = [*now, digest]
        return digest

    def _read(self, fd: int, size: int = 0) -> bytes:
        self.reads += 1
        data = os.read(fd, size + 1)
        if len(data) > size:  # it has grown, or nobody knew how long it is
            while more := os.read(fd, _LARGE):
                data += more
        return data


FORMAT: Final = 1
_LARGE: Final = 1 << 20
"""Bytes from which on a file is hashed piece by piece, and its digest remembered."""
_AT_REST: Final = 2_000_000_000
"""Nanoseconds: more than the coarsest times of files that are in use (two seconds on FAT)."""
