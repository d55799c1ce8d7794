"""One layer that is found by its content, and what is known of its entries on the way."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import marshal
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from buildstep.cache.blob_files import name_of
from buildstep.emit import chunk_reuse, large_pieces
from buildstep.emit.chunk_reuse import LayerFromChunks, ReusableChunks, layer_line
from buildstep.emit.interface import ArchiveStyle, Artifact, Blob
from buildstep.emit.layer import LayerJob, fill_layer, with_whiteouts
from buildstep.emit.read_pass import with_parents
from buildstep.emit.stored_layer import ChunkLost
from buildstep.errors import EmitError
from buildstep.events import Bus
from buildstep.formats.chunked import Stream
from buildstep.formats.codecs import Codec
from buildstep.formats.tar_writer import second_of
from buildstep.system.locks import create_locked
from buildstep.system.private import private_file
from buildstep.system.space import located
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry, FileList, texts_of
from buildstep.tree.hashing import hash_entries

FORMAT = 7
"""Of what decides the bytes of a layer besides its entries and the codec."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Making:
    """How the layers of a store are made. folder: where they are; fresh: use nothing that was there before;
    chunks: returns the chunks of the last build's layers; clean: tells of the content of a file that nothing
    is in it that somebody looks for, None where nobody does; sha1: whether somebody wants that of files."""

    folder: Path
    codec: Codec
    style: ArchiveStyle
    fresh: bool
    chunks: Callable[[], ReusableChunks]
    clean: Callable[[bytes], bool] | None = None
    sha1: bool = False


class Search:
    """A sink that looks through the files that are read, but the largest. found: those that are clean."""

    scope: Literal["tree", "layer"] = "layer"

    def __init__(self, clean: Callable[[bytes], bool]) -> None:
        self._clean = clean
        self._entry = Entry(b"", "f", 0, 0, 0)
        self.found: list[Entry] = []

    def begin(self, entry: Entry) -> None:
        self._entry = entry

    def data(self, offset: int, chunk: bytes) -> None:
        # The content of nearly every file comes whole; its digest may be known later than that.
        if len(chunk) == self._entry.size and self._clean(chunk):
            self.found.append(self._entry)

    def end(self, entry: Entry) -> None:
        pass

    def finish(self) -> Artifact:
        raise AssertionError("a search is not an artifact")


class NewFiles:
    """Files in the folder of layers that have no name yet: each is locked as long as it may become a layer,
    so that one that can be locked was left by a dead process. stem: what the journal has of them."""

    def __init__(self, folder: Path) -> None:
        self.stem = folder / name_of(f"new {secrets.token_hex(16)}")
        self._kept: list[int] = []

    @contextlib.contextmanager
    def create(self) -> Iterator[tuple[int, Path]]:
        """Create one, and yield it to be written to; an exception removes it. Raises OSError."""
        while True:
            name = f".{self.stem.name}.{os.getpid()}.{time.monotonic_ns()}.part"
            path = self.stem.with_name(name)
            try:
                fd = create_locked(path, 0o600)
                if fd is None:
                    continue
                self._kept.append(fd)
                yield fd, path
                # Whoever looks at it takes the same lock, and nobody a stronger one.
                fcntl.flock(fd, fcntl.LOCK_SH)
            except BaseException as error:
                failure = located(error, path) if isinstance(error, OSError) else error
                path.unlink(missing_ok=True)
                if failure is not error:
                    raise failure from error
                raise
            return

    def sweep(self) -> None:
        """Remove those that became nothing, of dead workers too."""
        while self._kept:
            os.close(self._kept.pop())
        for path in self.stem.parent.glob(f".{self.stem.name}.*.part"):
            path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewLayer:
    """A layer that was written. key: of its content; file: where it is, without a name; parts: the record of
    its chunks, None where there is none; seconds: that it took; clean: SHA-256 of clean files (see `Making`),
    in a row; sha1: of each file that was read its SHA-256 and its SHA-1, in a row."""

    blob: Blob
    key: str
    file: Path
    parts: Path | None
    seconds: float
    clean: bytes = b""
    sha1: bytes = b""


class ContentLayer:
    """Exactly these entries as a layer.

    changes: the layer, with the content in `root`; tree: what it leads to, for the parents of each entry.
    """

    def __init__(self, making: Making, root: Path, changes: Changes, tree: FileList) -> None:
        self._making = making
        self._root = root
        self._changes = changes
        self._layer = Changes(tuple(with_parents(changes, tree)), changes.removed)
        self._lines: list[bytes] = []

    @property
    def entries(self) -> Sequence[Entry]:
        """All of its entries, sorted, parents among them."""
        return self._layer.entries

    def look(self, bus: Bus) -> str:
        """Return the file name that the layer has in the store; empty where that takes making it.

        Entries that are not hashed yet are read, but only where there has been a layer that looked the same.
        Raises OSError.
        """
        entries = self.entries
        if not all(entry.sha256 or entry.kind != "f" or entry.first for entry in entries):
            if self._making.fresh or not self._shape.exists():
                return ""
            bus.count("bytes_hashed", hash_entries(self._root, entries))
        _spread_to_links(entries)
        return name_of(self._key())

    def write(
        self, files: NewFiles, bus: Bus, *, workers: int | None = None, told: Callable[[], None] | None = None
    ) -> NewLayer:
        """Write the layer; from old chunks where its content is known, and without them if one is damaged.

        workers, told: see `ChunkWriter`. Raises EmitError.
        """
        begin = time.monotonic()
        bus.count("layers_made")
        chunks, style = self._making.chunks(), self._making.style
        reuse, sha1 = None, dict[str, str]() if self._making.sha1 else None
        if self._lines and chunks:
            reuse = LayerFromChunks(chunks, self._root, *self._all(), style=style, sha1=sha1)
        search = None if self._making.clean is None else Search(self._making.clean)
        job = LayerJob(
            root=self._root, changes=self._layer, codec=self._making.codec, style=style, bus=bus,
            reuse=reuse, pieces=chunks.large, watch=search, workers=workers, told=told, sha1=sha1,
        )  # fmt: skip
        try:
            blob, stream, file = write_new(job, files)
        except ChunkLost:
            bus.note("a stored layer is damaged; nothing of it is reused", level="warning")
            blob, stream, file = write_new(replace(job, reuse=None), files)
        for path in chunks.large.newly_damaged():
            bus.note(
                f"the stored layer {path} is damaged; what is damaged of it was not used", level="warning"
            )
        key = self._key()
        parts = None
        with contextlib.suppress(OSError):
            private_file(self._shape)
            parts = self._save_chunks(files, stream)
        seconds = time.monotonic() - begin
        clean = b"" if search is None else bytes.fromhex("".join([item.sha256 for item in search.found]))
        return NewLayer(
            blob=blob, key=key, file=file, parts=parts, seconds=seconds, clean=clean, sha1=packed(sha1)
        )

    def _all(self) -> tuple[Sequence[Entry], list[bytes]]:
        """Return the entries, and what is removed as entries, with the line of each."""
        if not self._layer.removed:
            return self.entries, self._lines
        lines = dict(zip((entry.path for entry in self.entries), self._lines, strict=True))
        style, found = self._making.style, with_whiteouts(self._layer)
        return found, [lines.get(entry.path) or layer_line(entry, style) for entry in found]

    def _save_chunks(self, files: NewFiles, stream: Stream) -> Path:
        rows = chunk_reuse.table(stream, *self._all())
        with files.create() as (fd, path), open(fd, "wb", closefd=False) as out:
            chunk_reuse.write(out, rows, large_pieces.table(stream))
        return path

    def _key(self) -> str:
        """Return a digest of all that decides the layer's bytes; every entry is hashed."""
        if not self._lines:
            style = self._making.style
            texts_of(self.entries)
            self._lines = [layer_line(entry, style) for entry in self.entries]
        state = hashlib.sha256(f"content {FORMAT} {self._making.codec.ident}\n".encode())
        for path in self._layer.removed:
            state.update(b"gone %s\0" % path)
        state.update(b"".join(self._lines))
        return state.hexdigest()

    @functools.cached_property
    def _shape(self) -> Path:
        """Return the mark of layers that have everything in common but their files' content."""
        style = self._making.style
        rows = [
            (
                entry.path, entry.kind, entry.mode, entry.uid, entry.gid, entry.size, entry.target,
                entry.rdev, entry.xattrs, entry.first, second_of(entry, style.epoch),
            )
            for entry in self.entries
        ]  # fmt: skip
        # In version 2 equal values give equal bytes.
        data = marshal.dumps((FORMAT, self._making.codec.ident, style.sparse, self._layer.removed, rows), 2)
        return self._making.folder / f"{hashlib.sha256(data).hexdigest()}.shape"


def packed(sha1: Mapping[str, str] | None) -> bytes:
    """Return the SHA-1s of files by their SHA-256s as a NewLayer has them."""
    return bytes.fromhex("".join([digest + other for digest, other in (sha1 or {}).items()]))


def write_new(job: LayerJob, files: NewFiles) -> tuple[Blob, Stream, Path]:
    """Write a layer into a file without a name, and return the file. Raises as `fill_layer`."""
    try:
        with files.create() as (fd, path):
            blob, stream = fill_layer(job, fd, files.stem)
    except OSError as error:
        raise EmitError(f"cannot write the layer {files.stem.name}: {error.strerror}") from error
    return blob, stream, path


def _spread_to_links(entries: Sequence[Entry]) -> None:
    """Give the later members of hard-link groups the digest of the first, as reading the first would."""
    links = [entry for entry in entries if entry.first and entry.kind == "f" and not entry.sha256]
    if links:
        digests = {entry.path: entry.sha256 for entry in entries}
        for entry in links:
            entry.sha256, entry.text = digests[entry.first], b""
