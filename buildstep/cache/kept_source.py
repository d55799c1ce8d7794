"""What was read of a finished image to say what is in it, kept so that it need not be read again.

    state/artifacts/source-NAME.bin    of the last image of a component: a framed record for each field of
                                       KeptSource, in order

With it the next build says what is in its image without a tree on a disk: nothing of an image that stands,
and only what is new of one of which only some files changed. Contents are found by their digests.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from buildstep.system import framed
from buildstep.system.files import atomic_write
from buildstep.system.private import private_dir
from buildstep.tree.entry import digest_of

_LEVEL = 1
_LARGEST = 64 << 20
"""Bytes of contents that are kept of one image."""


@dataclass(kw_only=True, slots=True)
class KeptSource:
    """build: the id of the one that made the image; tree: the digest of the file list; lines: that list,
    compressed. By the SHA-256 of a file: contents, in full and compressed; heads, of each how much was asked
    for and the first bytes; sha1, of those that were asked for. origins: of each path that was asked about
    the step and the number of the layer, -1 for none. hashed: whether SHA-1s were asked for."""

    build: str = ""
    tree: str = ""
    lines: bytes = b""
    contents: dict[str, bytes] = field(default_factory=dict)
    heads: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    sha1: dict[str, str] = field(default_factory=dict)
    origins: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    hashed: bool = False

    def content(self, digest: str) -> bytes | None:
        """Return the content of a file; None where it is not kept, or not what it was."""
        packed = self.contents.get(digest)
        return None if packed is None else zlib.decompress(packed)

    def keep(self, digest: str, data: bytes) -> None:
        """Keep the content of a file."""
        if digest and digest not in self.contents:
            self.contents[digest] = zlib.compress(data, _LEVEL)

    def head(self, digest: str, size: int) -> bytes | None:
        """Return the first bytes of a file; None where as many are not kept."""
        asked, data = self.heads.get(digest, (-1, b""))
        return data[:size] if asked >= size or 0 <= len(data) < asked else None

    def list_lines(self) -> list[bytes]:
        """Return the lines of the file list; none where they are not those of its digest."""
        lines = zlib.decompress(self.lines).splitlines(keepends=True) if self.lines else []
        return lines if digest_of(lines) == self.tree else []


def save(state: Path, slot: str, source: KeptSource, lines: list[bytes]) -> None:
    """Keep what was read for the next build. slot: of which component and kind of outputs it is; lines: of
    the file list. Raises OSError."""
    path = _path(state, slot)
    if sum(map(len, source.contents.values())) > _LARGEST:
        source = KeptSource(heads=source.heads, sha1=source.sha1)  # what is small, and of no image
    else:
        source.lines = zlib.compress(b"".join(lines), _LEVEL)
    private_dir(path.parent)
    with atomic_write(path, durable=False) as stream:
        for item in fields(source):
            framed.write(stream, getattr(source, item.name))


def load(state: Path, slot: str) -> KeptSource:
    """Return what was read of the last image; nothing where it is not kept, or damaged."""
    try:
        data = _path(state, slot).read_bytes()
    except OSError:
        return KeptSource()
    names = [item.name for item in fields(KeptSource)]
    values: dict[str, Any] = dict(zip(names, (value for value, _ in framed.read(data)), strict=False))
    return KeptSource(**values) if len(values) == len(names) else KeptSource()


def _path(state: Path, slot: str) -> Path:
    name = hashlib.sha256(os.fsencode(slot)).hexdigest()[:32]
    return state / "artifacts" / f"source-{name}.bin"
