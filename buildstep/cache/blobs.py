"""Compressed layers of a build: each made when it is first needed, kept in the pool, found by its content.

A large top layer is written as several, cut between paths that their names choose: after an edit only the
one or two layers around it are made again, and a registry is sent only those.

    state/blobs/NAME         a compressed layer; NAME is the digest of its key
    state/blobs/NAME.json    its digests, what it cost, and what lstat said of it; written last
    state/blobs/NAME.parts   the parts it is made of, for the next one to take from
    state/blobs/NAME.shape   empty: there has been a layer of these names, sizes and modes
    state/blobs/NAME.last    the layers that the last build of the same outputs had, a name a line

A layer whose file was touched since it was written, or that was written before the machine was started last
(it is not forced onto the disk), is hashed again before it is used; whatever happens to
it later, an archive is only shipped when the layers in it have their digests. While a build uses a layer
its file is locked (shared), so that nobody prunes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import marshal
import os
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

from buildstep.emit import chunk_reuse
from buildstep.emit.chunk_reuse import ChunkLost, LayerFromChunks, ReusableChunks, layer_line
from buildstep.emit.interface import Blob
from buildstep.emit.layer import write_layer
from buildstep.emit.read_pass import with_parents
from buildstep.events import Bus
from buildstep.formats.chunked import Stream
from buildstep.formats.codecs import Codec
from buildstep.pool.journal import Journal
from buildstep.system.digest import sha256_file
from buildstep.system.files import atomic_write, read_json, stamp, write_json
from buildstep.system.host import boot_id
from buildstep.system.locks import lock, try_lock
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.hashing import hash_entries

FORMAT = 3
"""Of what decides the bytes of a layer besides its entries and the codec."""


class BlobStore:
    """The compressed layers of a pool, for one build. fresh: nothing that was there before is used,
    except for the base image's, which is part of the image store."""

    def __init__(
        self, state: Path, codec: Codec, *, slot: str, bus: Bus, journal: Journal, fresh: bool = False
    ) -> None:
        """slot: what the outputs are called; their last build's layers are the likeliest to be like these."""
        self._folder = state / "blobs"
        self._locks = state / "locks"
        self._codec = codec
        self._bus = bus
        self._journal = journal
        self._fresh = fresh
        self._held = contextlib.ExitStack()
        self._slot = self._folder / f"{_name(slot)}.last"
        self._used: list[str] = []
        self._old: ReusableChunks | None = None
        self.saved = 0.0
        self._folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._held.close()

    def remember(self) -> None:
        """Note which layers this build had, once it is done."""
        with atomic_write(self._slot, durable=False) as stream:
            stream.write("\n".join(self._used).encode())

    @property
    def _chunks(self) -> ReusableChunks:
        """What may be taken from the layers of the last build."""
        if self._old is None:
            names: list[str] = []
            with contextlib.suppress(OSError):
                names = [] if self._fresh else self._slot.read_text().split()
            paths = [self._folder / name for name in names if re.fullmatch("[0-9a-f]{64}", name)]
            found = [(path, _parts_of(path), _digest_of(path)) for path in paths]
            self._old = ReusableChunks(found, self._codec)
            self._held.callback(self._old.close)
        return self._old

    def find(self, key: str, comment: str) -> Blob | None:
        """The layer of this key, if it is there whole; it stays there until the store is closed."""
        return self.again(_name(key), comment)

    def again(self, name: str, comment: str) -> Blob | None:
        """The same for a layer whose file has this name."""
        path = self._folder / name
        record = _record_of(path)
        try:
            found = read_json(record)
            if not self._hold(path):
                return None
            if (found["stamp"], found["boot"]) != (stamp(path)[1:], boot_id()):
                if problem := damage(path, found):
                    self._bus.note(
                        f"{comment}: the stored layer is {problem}; it is made again", level="warning"
                    )
                    return None
                write_json(record, {**found, "stamp": stamp(path)[1:], "boot": boot_id()}, durable=False)
            os.utime(record)
            self.saved += found["seconds"]
            self._used.append(path.name)
            return Blob(
                path=path, digest=found["digest"], size=found["size"], diff_id=found["diff_id"],
                media_type=found["media_type"], comment=comment,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def reuse(self, name: str, comment: str) -> Blob | None:
        """The same for one that would have to be made otherwise: it is counted."""
        found = self.again(name, comment)
        if found is not None:
            self._bus.count("layers_reused")
        return found

    def _hold(self, path: Path) -> bool:
        """Lock a layer's file for as long as the store is open. False: it is being removed."""
        return self._held.enter_context(try_lock(path, shared=True, create=False))

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
        whole = Changes(tuple(entries), changes.removed)
        hashed = _hashed(entries)
        if not self._fresh and not hashed and self._shape(entries, changes, epoch).exists():
            self._bus.count("bytes_hashed", hash_entries(root, entries))
            hashed = True
        rows: list[bytes] = []
        key = f"new {secrets.token_hex(16)}"  # it is only known when the content has been read
        if hashed:
            _tell_followers(entries)
            rows = [layer_line(entry, epoch) for entry in entries]
            key = self._digest(rows, changes)
            if not self._fresh and (found := self.reuse(_name(key), comment)) is not None:
                return found
        path = self._folder / _name(key)
        self._journal.outputs(path)
        begin = time.monotonic()
        blob, stream = self._write(path, root, whole, rows, epoch=epoch)
        if not hashed:
            rows = [layer_line(entry, epoch) for entry in entries]
            key = self._digest(rows, changes)
        blob = self._keep(replace(blob, comment=comment), key, seconds=time.monotonic() - begin)
        with contextlib.suppress(OSError):
            self._shape(entries, changes, epoch).touch()
            if not changes.removed:
                chunk_reuse.save(_parts_of(blob.path), chunk_reuse.table(stream, entries, rows))
        return blob

    def _write(
        self, path: Path, root: Path, layer: Changes, lines: Sequence[bytes], *, epoch: int | None
    ) -> tuple[Blob, Stream]:
        """Write a layer, from old chunks where its lines are known; without them if one is damaged."""
        self._bus.count("layers_made")
        if lines and not layer.removed and self._chunks:
            reuse = LayerFromChunks(self._chunks, root, layer.entries, lines, epoch=epoch)
            with contextlib.suppress(ChunkLost):
                return write_layer(
                    root, layer, path, codec=self._codec, epoch=epoch, bus=self._bus, reuse=reuse
                )
            self._bus.note("a stored layer is damaged; nothing of it is reused", level="warning")
        return write_layer(root, layer, path, codec=self._codec, epoch=epoch, bus=self._bus)

    def _digest(self, rows: Iterable[bytes], changes: Changes) -> str:
        """A digest over all that decides a layer's bytes."""
        state = hashlib.sha256(f"content {FORMAT} {self._codec.ident}\n".encode())
        for path in changes.removed:
            state.update(b"gone %s\0" % path)
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
        self, key: str, root: Path, changes: Changes, tree: FileList, *, epoch: int | None, comment: str
    ) -> Blob:
        path = self._folder / _name(key)
        self._journal.outputs(path)
        begin = time.monotonic()
        layer = Changes(tuple(with_parents(changes, tree)), changes.removed)
        blob, _ = self._write(path, root, layer, (), epoch=epoch)
        return self._keep(replace(blob, comment=comment), key, seconds=time.monotonic() - begin)

    def _keep(self, blob: Blob, key: str, *, seconds: float) -> Blob:
        path = self._folder / _name(key)
        if blob.path != path:
            blob.path.rename(path)
        self._hold(path)
        record = {
            **asdict(blob), "path": os.fspath(path), "key": key, "seconds": seconds, "stamp": stamp(path)[1:],
            "boot": boot_id(),
        }  # fmt: skip
        write_json(_record_of(path), record, durable=False)
        self._used.append(path.name)
        return replace(blob, path=path)

    def drop_damaged(self, blobs: Iterable[Blob]) -> None:
        """Remove those layers that do not have their digest, for the next build to make them again."""
        for blob in blobs:
            with contextlib.suppress(OSError):
                if blob.path.parent == self._folder and sha256_file(blob.path) != blob.digest:
                    remove(blob.path)


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _parts_of(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def _digest_of(path: Path) -> str:
    """The digest of a stored layer as it was written down; empty where it was not."""
    try:
        return str(read_json(_record_of(path))["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def files_of(path: Path) -> tuple[Path, ...]:
    """A stored layer's file after those that tell of it; not every one is there."""
    return _record_of(path), _parts_of(path), path


def remove(path: Path) -> None:
    """Remove a stored layer, and what is written down of it first."""
    for item in files_of(path):
        item.unlink(missing_ok=True)


def damage(path: Path, record: dict[str, Any]) -> str:
    """What is wrong with a stored layer, having read it; empty if nothing."""
    if path.stat().st_size != record["size"]:
        return "cut short" if path.stat().st_size < record["size"] else "too long"
    return "" if sha256_file(path) == record["digest"] else "damaged"


def _second(entry: Entry, epoch: int | None) -> int:
    """The time of an entry as a layer has it."""
    second = entry.mtime // 1_000_000_000
    return second if epoch is None else min(second, epoch)


def _tell_followers(entries: Sequence[Entry]) -> None:
    """Give the later members of hard-link groups the digest of the first, as reading the first would."""
    untold = [entry for entry in entries if entry.first and entry.kind == "f" and not entry.sha256]
    if untold:
        digests = {entry.path: entry.sha256 for entry in entries}
        for entry in untold:
            entry.sha256, entry.text = digests[entry.first], b""


def _hashed(entries: Iterable[Entry]) -> bool:
    return all(entry.sha256 or entry.kind != "f" or entry.first for entry in entries)


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
