"""Compressed layers of a build: each made when it is first needed, kept in the pool, found by its content.

A large top layer is written as several, cut between paths that their names choose: after an edit only the
one or two layers around it are made again, and a registry is sent only those.

    state/blobs/NAME         a compressed layer; NAME is the digest of its key
    state/blobs/NAME.json    its digests, what it cost, and what lstat said of it; written last
    state/blobs/NAME.shape   empty: there has been a layer of these names, sizes and modes

A layer whose file was touched since it was written is hashed again before it is used; whatever happens to
it later, an archive is only shipped when the layers in it have their digests. While a build uses a layer
its file is locked (shared), so that nobody prunes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import marshal
import os
import secrets
import sys
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

from buildstep.artifacts import stamp
from buildstep.compress import Codec
from buildstep.emitters.oci import write_layer
from buildstep.events import Bus
from buildstep.filelist import Changes, Entry, FileList, hash_entries, line
from buildstep.fsutil import lock, read_json, sha256_file, write_json
from buildstep.interfaces import Blob
from buildstep.journal import Journal
from buildstep.readpass import with_parents

FORMAT = 2
"""Of what decides the bytes of a layer besides its entries and the codec."""

LAYER_TARGET = 48 << 20
"""Bytes that one layer of a large tree holds on average; a tree of less than twice that is one layer."""

_PER_FILE = 2048
"""What a file costs beside its content, in bytes of work."""


class BlobStore:
    """The compressed layers of a pool, for one build. fresh: nothing that was there before is used,
    except for the base image's, which is part of the image store."""

    def __init__(self, state: Path, codec: Codec, *, bus: Bus, journal: Journal, fresh: bool = False) -> None:
        self._folder = state / "blobs"
        self._locks = state / "locks"
        self._codec = codec
        self._bus = bus
        self._journal = journal
        self._fresh = fresh
        self._held = contextlib.ExitStack()
        self.saved = 0.0
        self._folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._held.close()

    def find(self, key: str, comment: str) -> Blob | None:
        """The layer of this key, if it is there whole; it stays there until the store is closed."""
        path = self._folder / _name(key)
        record = _record_of(path)
        try:
            found = read_json(record)
            if not self._hold(path):
                return None
            if found["stamp"] != stamp(path)[1:]:
                if problem := damage(path, found):
                    self._bus.note(
                        f"{comment}: the stored layer is {problem}; it is made again", level="warning"
                    )
                    return None
                write_json(record, {**found, "stamp": stamp(path)[1:]}, durable=False)
            os.utime(record)
            self.saved += found["seconds"]
            return Blob(
                path=path, digest=found["digest"], size=found["size"], diff_id=found["diff_id"],
                media_type=found["media_type"], comment=comment,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _hold(self, path: Path) -> bool:
        """Lock a layer's file for as long as the store is open. False: it is being removed."""
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._held.callback(os.close, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        here, there = os.fstat(fd), os.stat(path, follow_symlinks=False)
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

    def known(
        self, key: str, root: Path, changes: Changes, tree: FileList, *, epoch: int | None, comment: str
    ) -> Blob:
        """The layer of a key that is known beforehand (what it leads from and to): found, or made now."""
        base = key.startswith("base ")
        key = self._full(key, epoch)
        with lock(self._locks / f"blob-{_name(key)[:32]}.lock"):
            found = None if self._fresh and not base else self.find(key, comment)
            if found is not None:
                return found
            self._bus.note(f"compressing {comment}")
            return self._make(key, root, changes, tree, epoch=epoch, comment=comment)

    def stored(self, key: str, *, epoch: int | None, comment: str) -> Blob | None:
        """Like `known`, for who would rather not know what is in it unless it has to be made."""
        return None if self._fresh else self.find(self._full(key, epoch), comment)

    def _full(self, key: str, epoch: int | None) -> str:
        return f"{key} {FORMAT} {self._codec.ident} {epoch}"

    def by_content(
        self, root: Path, changes: Changes, tree: FileList, *, epoch: int | None, comment: str
    ) -> Blob:
        """The layer of exactly these entries. Those that are not hashed yet are read while it is made,
        or before, where there has been a layer that looked the same."""
        entries = with_parents(changes, tree)
        if not self._fresh and not _hashed(entries) and self._shape(entries, changes, epoch).exists():
            self._bus.count("bytes_hashed", hash_entries(root, entries))
        if not _hashed(entries):
            # The key is only known when the content has been read: one read makes both.
            key = f"new {secrets.token_hex(16)}"
            begin = time.monotonic()
            blob = self._make(key, root, changes, tree, epoch=epoch, comment=comment, keep=False)
            blob = self._keep(blob, self._digest(entries, changes, epoch), seconds=time.monotonic() - begin)
        else:
            key = self._digest(entries, changes, epoch)
            found = None if self._fresh else self.find(key, comment)
            if found is not None:
                self._bus.count("layers_reused")
                return found
            blob = self._make(key, root, changes, tree, epoch=epoch, comment=comment)
        with contextlib.suppress(OSError):
            self._shape(entries, changes, epoch).touch()
        return blob

    def _digest(self, entries: Iterable[Entry], changes: Changes, epoch: int | None) -> str:
        """A digest over all that decides a layer's bytes."""
        state = hashlib.sha256(f"content {FORMAT} {self._codec.ident}\n".encode())
        for path in changes.removed:
            state.update(b"gone %s\0" % path)
        limit = sys.maxsize if epoch is None else epoch
        rows = [
            b"%d %s" % (min(entry.mtime // 1_000_000_000, limit), entry.text or line(entry))
            for entry in entries
        ]
        state.update(b"".join(rows))
        return state.hexdigest()

    def _shape(self, entries: Iterable[Entry], changes: Changes, epoch: int | None) -> Path:
        """The mark of layers that have all in common but their files' content."""
        rows = [
            (
                entry.path, entry.kind, entry.mode, entry.uid, entry.gid, entry.size, entry.target,
                entry.rdev, entry.xattrs, entry.first, _second(entry, epoch),
            )
            for entry in entries
        ]  # fmt: skip
        data = marshal.dumps(
            (FORMAT, self._codec.ident, changes.removed, rows), 2
        )  # 2: equal values, equal bytes
        return self._folder / f"{hashlib.sha256(data).hexdigest()}.shape"

    def _make(
        self, key: str, root: Path, changes: Changes, tree: FileList, *, epoch: int | None, comment: str,
        keep: bool = True,
    ) -> Blob:  # fmt: skip
        path = self._folder / _name(key)
        self._journal.outputs(path)
        begin = time.monotonic()
        blob = write_layer(
            root, changes, path, codec=self._codec, epoch=epoch, bus=self._bus, tree=tree, comment=comment
        )
        self._bus.count("layers_made")
        return self._keep(blob, key, seconds=time.monotonic() - begin) if keep else blob

    def _keep(self, blob: Blob, key: str, *, seconds: float) -> Blob:
        path = self._folder / _name(key)
        if blob.path != path:
            blob.path.rename(path)
        self._hold(path)
        record = {
            **asdict(blob), "path": os.fspath(path), "key": key, "seconds": seconds, "stamp": stamp(path)[1:],
        }  # fmt: skip
        write_json(_record_of(path), record, durable=False)
        return replace(blob, path=path)

    def drop_damaged(self, blobs: Iterable[Blob]) -> None:
        """Remove those layers that do not have their digest, for the next build to make them again."""
        for blob in blobs:
            with contextlib.suppress(OSError):
                if blob.path.parent == self._folder and sha256_file(blob.path) != blob.digest:
                    _record_of(blob.path).unlink(missing_ok=True)
                    blob.path.unlink(missing_ok=True)


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def damage(path: Path, record: dict[str, Any]) -> str:
    """What is wrong with a stored layer, having read it; empty if nothing."""
    if path.stat().st_size != record["size"]:
        return "cut short" if path.stat().st_size < record["size"] else "too long"
    return "" if sha256_file(path) == record["digest"] else "damaged"


def _second(entry: Entry, epoch: int | None) -> int:
    """The time of an entry as a layer has it."""
    second = entry.mtime // 1_000_000_000
    return second if epoch is None else min(second, epoch)


def _hashed(entries: Iterable[Entry]) -> bool:
    return all(entry.sha256 or entry.kind != "f" or entry.first for entry in entries)


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def segments(changes: Changes) -> list[Changes]:
    """A layer cut into several where it is large: files, with what is removed in the first, and at last
    the directories. One for all where it is not.

    A cut comes before a path whose name's hash says so, in proportion to what was added since: the same
    paths are cut in nearly the same places whatever changed elsewhere. Hard links stay with their first.
    Directories come last, alone, because their times move with whatever happens in them.
    """
    # What has no content of its own costs what a file costs beside it.
    weights = [
        entry.size + _PER_FILE if entry.kind == "f" and not entry.first else _PER_FILE
        for entry in changes.entries
    ]
    total = sum(weights)
    if total < 2 * LAYER_TARGET:
        return [changes]
    # Powers of two: growing a little does not move every cut.
    target = LAYER_TARGET
    while total > 24 * target:
        target *= 2
    linked = {entry.first for entry in changes.entries if entry.first}
    parts: list[list[Entry]] = [[]]
    where: dict[bytes, list[Entry]] = {}
    size, part = 0, parts[0]
    for entry, weight in zip(changes.entries, weights, strict=True):
        if entry.kind == "d":
            continue
        if entry.first and entry.first in where:
            where[entry.first].append(entry)
            continue
        if size and (
            size + weight > 3 * target
            or (size > target // 4 and zlib.crc32(entry.path) < weight * 0xFFFFFFFF // target)
        ):
            part = []
            parts.append(part)
            size = 0
        part.append(entry)
        if entry.path in linked:
            where[entry.path] = part
        size += weight
    removed: Sequence[tuple[bytes, ...]] = [changes.removed, *([()] * (len(parts) - 1))]
    files = [Changes(tuple(part), gone) for part, gone in zip(parts, removed, strict=True)]
    return [*files, Changes(tuple(entry for entry in changes.entries if entry.kind == "d"), ())]


def timeless(tree: FileList) -> FileList:
    """The directories of a tree without their times, for layers that repeat them above their files."""
    return {path: replace(entry, mtime=0) for path, entry in tree.items() if entry.kind == "d"}
