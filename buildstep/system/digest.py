"""Size and digests of files and streams."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from buildstep.system.files import CHUNK, Slice, SliceReader


def sha256_file(path: Path | str) -> str:
    """Return the hex SHA-256 of a file's content. Raises OSError."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_fd(fd: int, begin: int = 0, size: int | None = None) -> str:
    """Return the hex SHA-256 of an open file, wherever its offset is; of so many bytes from `begin` on, or of
    what there is of them. Raises OSError."""
    digest, at = hashlib.sha256(), begin
    end = sys.maxsize if size is None else begin + size
    while at < end and (data := os.pread(fd, min(CHUNK, end - at), at)):
        digest.update(data)
        at += len(data)
    return digest.hexdigest()


def sha256_bytes(data: bytes) -> str:
    """Return the hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_slice(part: Slice) -> str:
    """Return the hex SHA-256 of a part of a file, of what there is of it. Raises OSError."""
    digest = hashlib.sha256()
    with part.path.open("rb") as stream:
        reader = SliceReader(stream, part.offset, part.size)
        while data := reader.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Digests:
    """What a file holds: its size in bytes and hex digests."""

    size: int
    sha1: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What is known of a file before it is here. Digests in hex, empty if not known; one of them is."""

    size: int
    sha1: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        assert self.sha1 or self.sha256, "without a digest a file cannot be verified"

    def mismatches(self, real: Digests) -> list[str]:
        """Return what a file has that it should not have, such as "size 5, not 6"; empty if it is right."""
        rows = (
            ("size", real.size, self.size),
            ("sha1", real.sha1, self.sha1),
            ("sha256", real.sha256, self.sha256),
        )
        return [f"{name} {got}, not {wanted}" for name, got, wanted in rows if wanted not in ("", got)]


class Digester:
    """The size and the digests of data that comes in pieces, by default SHA-1 and SHA-256."""

    def __init__(self, *algorithms: str) -> None:
        names = algorithms or ("sha1", "sha256")
        self._states = {name: hashlib.new(name, usedforsecurity=False) for name in names}
        self.size = 0

    def update(self, data: bytes) -> None:
        self.size += len(data)
        for state in self._states.values():
            state.update(data)

    def digest(self, name: str) -> bytes:
        """Return one digest of what came so far; empty if it was not asked for."""
        return self._states[name].digest() if name in self._states else b""

    def result(self) -> Digests:
        """Return the digests of what came so far; one that was not asked for is empty."""
        return Digests(self.size, self.digest("sha1").hex(), self.digest("sha256").hex())


class HashingReader:
    """A stream that is hashed while it is read, so that it need not be read twice. See `Digester`."""

    def __init__(self, stream: IO[bytes], *algorithms: str) -> None:
        self.source = stream
        self._digester = Digester(*algorithms)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self.source.read(size)
        self._digester.update(data)
        return data

    def finish(self) -> Digests:
        """Read what is left and return the digests of all."""
        while self.read(CHUNK):
            pass
        return self._digester.result()


def digests_of(path: Path) -> Digests:
    """Return size, SHA-1 and SHA-256 of a file, read once. Raises OSError."""
    with path.open("rb") as stream:
        return HashingReader(stream).finish()
