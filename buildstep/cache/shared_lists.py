"""File lists on their way between agents: what of a tree is not in the list of the tree below it.

A compressed layer has the content of a tree, but its times only to the second, and clamped where a build
asks for that. The list has them exactly, so that the tree is the same on every agent, and so is all that is
made of it.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from buildstep.errors import StoreError
from buildstep.system.digest import sha256_bytes
from buildstep.tree.entry import HEADER, FileList, dumps, loads, tree_digest

LARGEST_PACKED = 64 << 20
"""Bytes that a packed list may have."""
_LARGEST = 1 << 30


def pack(tree: FileList, below: FileList) -> tuple[bytes, list[str]]:
    """Return the compressed rows of a list that are not in the one below, and the paths of that which are not
    in it, in hexadecimal digits."""
    old = set(dumps(below).splitlines(keepends=True)) if below else set()
    rows = [row for row in dumps(tree)[len(HEADER) :].splitlines(keepends=True) if row not in old]
    return zlib.compress(HEADER + b"".join(rows)), [path.hex() for path in sorted(below.keys() - tree.keys())]


def unpack(data: bytes, gone: Iterable[str], below: FileList, digest: str) -> tuple[FileList, set[bytes]]:
    """Return the list that was packed, whose stored form has this SHA-256, and the paths that the rows are
    of. Raises StoreError for another one."""
    reader = zlib.decompressobj()
    try:
        text = reader.decompress(data, _LARGEST)
        lost = {bytes.fromhex(path) for path in gone}
    except (zlib.error, ValueError, TypeError) as error:
        raise StoreError(f"its list is damaged: {error}") from error
    rows = loads(text)
    found = {path: entry for path, entry in below.items() if path not in lost} | rows
    found = {path: found[path] for path in sorted(found)}
    if sha256_bytes(dumps(found)) != digest:
        raise StoreError("its list is another one than its record says")
    return found, set(rows)


def settle(top: Path, tree: FileList, unpacked: FileList, paths: Iterable[bytes]) -> None:
    """Give what was just unpacked the times of its list. Raises StoreError where it is another tree.

    unpacked: what the extraction found, every file hashed while it was written; paths: those whose times may
    be others on the disk.
    """
    if tree_digest(unpacked) != tree_digest(tree):
        raise StoreError("what is in its layer is not what its list says")
    name = os.fsencode(top)
    # The deepest first: nothing below a directory is touched after it.
    for path in sorted(paths, reverse=True):
        entry = tree.get(path)
        if entry is None:
            continue
        with contextlib.suppress(FileNotFoundError):
            os.utime(
                os.path.join(name, path) if path else name,
                ns=(entry.mtime, entry.mtime),
                follow_symlinks=False,
            )
