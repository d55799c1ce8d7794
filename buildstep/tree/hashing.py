"""SHA-256 of the files of a tree."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from buildstep.system.files import CHUNK
from buildstep.tree.entry import Entry, FileList

# -- hashing and difference -------------------------------------------------------------------------------


def open_content(root: bytes, entry: Entry) -> int:
    """A descriptor of a regular file's content; a link under that name is refused."""
    path = entry.source or root + b"/" + entry.path
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def hash_entries(root: Path | bytes, entries: Iterable[Entry]) -> int:
    """Fill in the SHA-256 of files that have none; returns the bytes read."""
    top = os.fsencode(root)
    total = 0
    for entry in entries:
        if entry.kind != "f" or entry.sha256 or entry.first:
            continue
        digest = hashlib.sha256()
        with os.fdopen(open_content(top, entry), "rb", buffering=0) as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                total += len(chunk)
        entry.sha256 = digest.hexdigest()
    return total


def spread_digests(entries: FileList) -> None:
    """Give the later members of each hard-link group the digest of the first."""
    for entry in entries.values():
        if entry.first and entry.kind == "f":
            entry.sha256 = entries[entry.first].sha256
