"""Compressed layers of a build: each made when it is first needed, kept in the pool, found by its content.

A large top layer is written as several, cut between paths that their names choose: after an edit only the
one or two layers around it are made again, and a registry is sent only those.

    state/blobs/NAME        a compressed layer; NAME is the digest of its key
    state/blobs/NAME.json   its digests, written last
"""

from __future__ import annotations

import hashlib
import os
import secrets
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from buildstep.compress import Codec
from buildstep.emitters.oci import write_layer
from buildstep.events import Bus
from buildstep.filelist import Changes, Entry, FileList, line
from buildstep.fsutil import lock, read_json, write_json
from buildstep.interfaces import Blob
from buildstep.journal import Journal
from buildstep.readpass import with_parents

LAYER_TARGET = 48 << 20
"""Bytes that one layer of a large tree holds on average; a tree of less than twice that is one layer."""

_PER_FILE = 2048
"""What a file costs beside its content, in bytes of work."""


class BlobStore:
    """The compressed layers of a pool."""

    def __init__(self, state: Path, codec: Codec, *, bus: Bus, journal: Journal) -> None:
        self._folder = state / "blobs"
        self._locks = state / "locks"
        self._codec = codec
        self._bus = bus
        self._journal = journal
        self._folder.mkdir(parents=True, exist_ok=True)

    def find(self, key: str, comment: str) -> Blob | None:
        """The layer of this key, if it is there whole."""
        name = _name(key)
        try:
            found = read_json(self._folder / f"{name}.json")
            path = self._folder / name
            if path.stat().st_size != found["size"]:
                return None
            os.utime(self._folder / f"{name}.json")
            return Blob(
                path=path, digest=found["digest"], size=found["size"], diff_id=found["diff_id"],
                media_type=found["media_type"], comment=comment,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def known(
        self, key: str, root: Path, changes: Changes, tree: FileList, *, epoch: int | None, comment: str
    ) -> Blob:
        """The layer of a key that is known beforehand (what it leads from and to): found, or made now."""
        key = f"{key} {self._codec.ident} {epoch}"
        with lock(self._locks / f"blob-{_name(key)[:32]}.lock"):
            found = self.find(key, comment)
            if found is not None:
                return found
            self._bus.note(f"compressing {comment}")
            return self._make(key, root, changes, tree, epoch=epoch, comment=comment)

    def by_content(
        self, root: Path, changes: Changes, tree: FileList, *, epoch: int | None, comment: str
    ) -> Blob:
        """The layer of exactly these entries. Those that are not hashed yet are read while it is made."""
        entries = with_parents(changes, tree)
        if all(entry.sha256 or entry.kind != "f" or entry.first for entry in entries):
            key = self._content_key(entries, changes, epoch)
            found = self.find(key, comment)
            if found is not None:
                self._bus.count("layers_reused")
                return found
            return self._make(key, root, changes, tree, epoch=epoch, comment=comment)
        # The key is only known when the content has been read: one read makes both.
        key = f"new {secrets.token_hex(16)}"
        blob = self._make(key, root, changes, tree, epoch=epoch, comment=comment, keep=False)
        return self._keep(blob, self._content_key(entries, changes, epoch))

    def _content_key(self, entries: Iterable[Entry], changes: Changes, epoch: int | None) -> str:
        digest = hashlib.sha256(f"content {self._codec.ident}\n".encode())
        for path in changes.removed:
            digest.update(b"gone %s\0" % path)
        limit = None if epoch is None else epoch * 1_000_000_000
        rows = []
        for entry in entries:
            time = entry.mtime if limit is None else min(entry.mtime, limit)
            rows.append(b"%d %s" % (time // 1_000_000_000, line(entry)))
        digest.update(b"".join(rows))
        return digest.hexdigest()

    def _make(
        self, key: str, root: Path, changes: Changes, tree: FileList, *, epoch: int | None, comment: str,
        keep: bool = True,
    ) -> Blob:  # fmt: skip
        path = self._folder / _name(key)
        self._journal.outputs(path)
        blob = write_layer(
            root, changes, path, codec=self._codec, epoch=epoch, bus=self._bus, tree=tree, comment=comment
        )
        self._bus.count("layers_made")
        return self._keep(blob, key) if keep else blob

    def _keep(self, blob: Blob, key: str) -> Blob:
        path = self._folder / _name(key)
        if blob.path != path:
            blob.path.rename(path)
        record = {**asdict(blob), "path": os.fspath(path), "key": key}
        write_json(path.with_name(path.name + ".json"), record, durable=False)
        return Blob(
            path=path, digest=blob.digest, size=blob.size, diff_id=blob.diff_id, media_type=blob.media_type,
            comment=blob.comment,
        )  # fmt: skip


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def segments(changes: Changes) -> list[Changes]:
    """A layer cut into several where it is large: files, with what is removed in the first, and at last
    the directories. One for all where it is not.

    A cut comes before a path whose name's hash says so, in proportion to what was added since: the same
    paths are cut in nearly the same places whatever changed elsewhere. Hard links stay with their first.
    Directories come last, alone, because their times move with whatever happens in them.
    """
    total = sum(_weight(entry) for entry in changes.entries)
    if total < 2 * LAYER_TARGET:
        return [changes]
    # Powers of two: growing a little does not move every cut.
    target = LAYER_TARGET
    while total > 24 * target:
        target *= 2
    parts: list[list[Entry]] = [[]]
    where: dict[bytes, list[Entry]] = {}
    size = 0
    for entry in changes.entries:
        if entry.kind == "d":
            continue
        if entry.first and entry.first in where:
            where[entry.first].append(entry)
            continue
        weight = _weight(entry)
        if size and (
            size + weight > 3 * target
            or (size > target // 4 and zlib.crc32(entry.path) < weight * 0xFFFFFFFF // target)
        ):
            parts.append([])
            size = 0
        parts[-1].append(entry)
        where[entry.path] = parts[-1]
        size += weight
    removed: Sequence[tuple[bytes, ...]] = [changes.removed, *([()] * (len(parts) - 1))]
    files = [Changes(tuple(part), gone) for part, gone in zip(parts, removed, strict=True)]
    return [*files, Changes(tuple(entry for entry in changes.entries if entry.kind == "d"), ())]


def timeless(tree: FileList) -> FileList:
    """The directories of a tree without their times, for layers that repeat them above their files."""
    return {path: replace(entry, mtime=0) for path, entry in tree.items() if entry.kind == "d"}


def _weight(entry: Entry) -> int:
    return entry.size + _PER_FILE if entry.kind == "f" and not entry.first else _PER_FILE
