"""The compressed layers of a pool: each made when it is first needed, and found again by its content.

A large top layer is written as several, cut between paths that their names choose: after an edit only the one
or two layers around it are made again, and only those are sent to a registry.

    state/blobs/NAME         a compressed layer; NAME is the digest of its key
    state/blobs/NAME.json    its record (`BlobRecord`); written last
    state/blobs/NAME.parts   its chunks, for other layers to reuse (`emit.chunk_reuse`)
    state/blobs/NAME.shape   empty: there has been a layer of these names, sizes and modes
    state/blobs/NAME.last    the names of the layers that the last build of the same outputs had: a framed
                             record

A layer is hashed again before it is used if its file was touched since it was written, or was written before
the machine was started last (it is not forced to the disk). Of any other a sample is compared
(`BlobRecord.known`), and the digest that it was given when it was made is believed; with `paranoid` an image
only gets its name when the layers in it were hashed again. Nobody may write to a layer's file: an image that
is a directory can have a second name of it.

While a build uses a layer its file is locked (shared), before it is looked at, so that nobody prunes it. A
layer is written under a name of its own; it gets its name and its record, and is removed, while
`locks/blob-names.lock` is held, so that nobody removes a new file in place of the old one. Whoever makes
a layer that is known beforehand holds `locks/blob-NAME.lock` meanwhile, and takes it before any of these.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from buildstep.cache import records
from buildstep.cache.blob_files import (
    RECORD_FORMAT,
    BlobRecord,
    chunks_path,
    name_of,
    names_lock,
    protect,
    record_path,
    remove,
)
from buildstep.cache.content_layer import FORMAT, ContentLayer, Making, NewFiles, NewLayer, packed, write_new
from buildstep.cache.layer_crew import LayerCrew, Wanted
from buildstep.emit import read_pass
from buildstep.emit.chunk_reuse import ReusableChunks
from buildstep.emit.interface import ArchiveStyle, Blob
from buildstep.emit.layer import LayerJob
from buildstep.events import Bus
from buildstep.formats.codecs import Codec
from buildstep.pool.journal import Journal
from buildstep.system import framed, workers
from buildstep.system.digest import sha256_file
from buildstep.system.files import atomic_write
from buildstep.system.locks import lock, try_lock
from buildstep.system.private import private_dir
from buildstep.system.share import may_link
from buildstep.tree.diff import Brought, Changes, diff
from buildstep.tree.entry import Entry, FileList


class BlobStore:
    """The compressed layers of a pool, for one build.

    slot: the name of the outputs; the layers of their last build are the likeliest to be alike. fresh: use
    nothing that was there before.
    """

    def __init__(
        self,
        state: Path,
        codec: Codec,
        *,
        slot: str,
        style: ArchiveStyle,
        bus: Bus,
        journal: Journal,
        fresh: bool = False,
    ) -> None:
        self.folder = state / "blobs"
        self._locks = state / "locks"
        self._codec = codec
        self._style = style
        self._bus = bus
        self._journal = journal
        self._fresh = fresh
        self.paranoid = False
        """Whether what is used of it is hashed again; the emitters do so with whole layers."""
        self._held = contextlib.ExitStack()
        self._slot = self.folder / f"{name_of(slot)}.last"
        self._used: list[str] = []
        self._found: dict[str, BlobRecord] = {}
        self._reusable: ReusableChunks | None = None
        self._files: NewFiles | None = None
        self._making = Making(folder=self.folder, codec=codec, style=style, fresh=fresh, chunks=self._chunks)
        self.clean: set[bytes] = set()
        """SHA-256 of the files that were read for layers and are clean, where somebody looks (`search`)."""
        self.sha1: dict[str, str] = {}
        """SHA-1 of the files that were read for layers, by SHA-256, where somebody wants it (`want_sha1`)."""
        self.saved = 0.0
        """Seconds that the layers found had taken to make."""
        private_dir(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._held.close()

    def remember(self) -> None:
        """Note which layers this build had, once it is done and has the names of their files in its image."""
        with atomic_write(self._slot, durable=False) as stream:
            framed.write(stream, self._used)
        for path in {self.folder / name for name in self._used}:
            with contextlib.suppress(OSError, ValueError):
                record = BlobRecord.read(path)
                if (now := record.renamed(path)) is not None and now != record:
                    now.save(path)

    # -- finding

    def find(self, name: str, comment: str) -> Blob | None:
        """Return the stored layer of this file name; it stays until the store is closed.

        None if there is none, if it is being removed, or if it is damaged. Damage is noted, unless the
        comment is empty: then the caller only wants to know, and will look again.
        """
        path = self.folder / name
        record = self._found.get(name) or self._look(path, comment)
        if record is None:
            return None
        if name not in self._found:
            self._found[name] = record
            self.saved += record.seconds
        self._used.append(name)
        return Blob(
            path=path, digest=record.digest, size=record.size, diff_id=record.diff_id,
            media_type=record.media_type, comment=comment,
            brought=Brought(*record.brought) if record.brought else None,
        )  # fmt: skip

    def _look(self, path: Path, comment: str) -> BlobRecord | None:
        """Lock a stored layer, and return its record if it is good. See `find`."""
        try:
            if not self._hold(path):
                return None
            record = BlobRecord.read(path)
            if not record.known(path) and (problem := self._hashed_again(path, record)):
                if comment:
                    text = f"{comment}: the stored layer is {problem}; it is made again"
                    self._bus.note(text, level="warning")
                return None
            if (seen := record.seen(path)) != record:
                seen.save(path)
            os.utime(record_path(path))
        except (OSError, ValueError):
            return None
        return seen

    def _hashed_again(self, path: Path, record: BlobRecord) -> str:
        """Read a layer and return what is wrong with it; empty if nothing is. Nobody else may write to its
        file then: where somebody might, by another name of it, a copy takes its place. Raises OSError."""
        self._bus.count("layer_bytes_hashed", record.size)
        info = path.lstat()
        if may_link(info) or (info.st_uid == os.geteuid() and info.st_nlink == 1):
            if not (problem := record.damage(path)):
                protect(path)
            return problem
        with self._new_files().create() as (_, new):
            shutil.copyfile(path, new)
        try:
            if problem := record.damage(new):
                return problem
            protect(new)
            self._hold(new)  # the lock goes with the file
            with lock(names_lock(self.folder)):
                new.rename(path)
        finally:
            new.unlink(missing_ok=True)
        return ""

    def reuse(self, name: str, comment: str) -> Blob | None:
        """Return a stored layer like `find`, and count that it need not be made."""
        found = self.find(name, comment)
        if found is not None:
            self._bus.count("layers_reused")
        return found

    def find_key(self, key: str, comment: str) -> Blob | None:
        """Return the layer of this key if it is stored."""
        return None if self._fresh else self.find(name_of(self._full(key, self._style)), comment)

    def _full(self, key: str, style: ArchiveStyle) -> str:
        return f"{key} {FORMAT} {self._codec.ident} {style.epoch} {style.sparse}"

    def _hold(self, path: Path) -> bool:
        """Lock a layer's file for as long as the store is open. False: it is being removed."""
        return self._held.enter_context(try_lock(path, shared=True, create=False))

    def _chunks(self) -> ReusableChunks:
        """Return the chunks of the layers of the last build, but not of those that this one has as they are:
        their paths are in no other layer of it."""
        if self._reusable is None:
            names: list[str] = []
            with contextlib.suppress(OSError):
                names = (
                    [] if self._fresh else next((row for row, _ in framed.read(self._slot.read_bytes())), [])
                )
            paths = [self.folder / name for name in names if name not in self._found]
            known = [(path, records.find(BlobRecord, record_path(path), RECORD_FORMAT)) for path in paths]
            rows = [(path, chunks_path(path), self._unchecked(path, it)) for path, it in known if it]
            self._reusable = ReusableChunks(rows, self._codec)
            self._held.callback(self._reusable.close)
        return self._reusable

    def _unchecked(self, path: Path, record: BlobRecord) -> str:
        """Return the digest that a layer is to be compared with before chunks of it are used; empty for none:
        each chunk has a checksum of its own, which is compared when it is expanded."""
        with contextlib.suppress(OSError):
            if not self.paranoid and self._codec.name != "none" and record.known(path):
                return ""
        return record.digest

    # -- making

    def for_key(self, key: str, root: Path, changes: Changes, tree: FileList, *, comment: str) -> Blob:
        """Return the layer for this key, building it if missing.

        key: says all that decides the layer, but for the codec and the style. changes: the layer's entries,
        tree: what it leads to, with the content in `root`. Raises EmitError.
        """
        layer, full = ContentLayer(self._making, root, changes, tree), self._full(key, self._style)

        def write() -> NewLayer:
            layer.look(self._bus)  # what is hashed can be found in the layers of the last build
            return replace(layer.write(self._new_files(), self._bus), key=full)

        return self._for_key(full, comment, layer.entries, write)

    def for_base(self, key: str, root: Path, tree: FileList, *, comment: str) -> Blob:
        """Return the layer of a base image's whole tree like `for_key`; all epochs share an older one."""
        style = self._style
        if style.epoch is not None and all(entry.mtime // 10**9 <= style.epoch for entry in tree.values()):
            style = replace(style, epoch=None)
        layer, full = diff({}, tree), self._full(key, style)
        sha1 = dict[str, str]() if self._making.sha1 else None
        job = LayerJob(root=root, changes=layer, codec=self._codec, style=style, bus=self._bus, sha1=sha1)

        def write() -> NewLayer:
            begin = time.monotonic()
            self._bus.count("layers_made")
            blob, _, file = write_new(job, self._new_files())
            seconds = time.monotonic() - begin
            return NewLayer(blob=blob, key=full, file=file, parts=None, seconds=seconds, sha1=packed(sha1))

        return self._for_key(full, comment, layer.entries, write)

    def _for_key(
        self, key: str, comment: str, entries: Sequence[Entry], write: Callable[[], NewLayer]
    ) -> Blob:
        name = name_of(key)
        with lock(self._locks / f"blob-{name[:32]}.lock", tell=self._bus.note):
            found = None if self._fresh else self.find(name, comment)
            if found is not None:
                return found
            self._bus.note(f"compressing {comment}")
            with read_pass.job(self._bus, f"compress {comment}", entries):
                made = write()
            return self._keep(made, comment)

    def for_content(self, root: Path, changes: Changes, tree: FileList, *, comment: str) -> Blob:
        """Return the layer of exactly these entries, building it if missing.

        Entries that are not hashed yet are read while it is made; or before, where there has been a layer
        that looked the same. Raises EmitError.
        """
        layer = ContentLayer(self._making, root, changes, tree)
        name = layer.look(self._bus)
        if name and not self._fresh and (found := self.reuse(name, comment)) is not None:
            return found
        return self._made(layer, comment)

    def _made(self, layer: ContentLayer, comment: str) -> Blob:
        with read_pass.job(self._bus, f"compress {comment}", layer.entries):
            made = layer.write(self._new_files(), self._bus)
        return self._keep(made, comment)

    def search(self, clean: Callable[[bytes], bool]) -> None:
        """Look through the files that are read for layers from now on, so that nobody has to read them again.
        clean: see `Making`."""
        self._making = replace(self._making, clean=clean)

    def want_sha1(self, *, wanted: bool) -> None:
        """Say whether files that are read for layers from now on are hashed by SHA-1 as well."""
        self._making = replace(self._making, sha1=wanted)

    def for_contents(self, root: Path, wanted: Sequence[Wanted], tree: FileList) -> Iterator[Blob]:
        """Return the layers of these changes, each as `for_content` does; they are found or made from now on,
        in worker processes. tree: what all of them lead to. The iterator raises EmitError."""
        count = min(workers.count(), len(wanted))
        if count < 2:
            return (self.for_content(root, changes, tree, comment=comment) for changes, comment in wanted)
        crew = LayerCrew(self._making, root, wanted, tree, files=self._new_files(), count=count)
        return self._of_crew(self._held.enter_context(crew), root, wanted, tree)

    def _of_crew(
        self, crew: LayerCrew, root: Path, wanted: Sequence[Wanted], tree: FileList
    ) -> Iterator[Blob]:
        entries = [entry for changes, _ in wanted for entry in changes.entries]
        job = read_pass.job(self._bus, f"compress {len(wanted)} layers", entries, crew.read)
        with contextlib.closing(crew), job:
            for (changes, comment), result in zip(wanted, crew.results(), strict=True):
                for name, amount in result.counts.items():
                    self._bus.count(name, amount)
                for text, level in result.notes:
                    self._bus.note(text, level=level)
                if result.made is not None:
                    yield self._keep(result.made, comment)
                else:
                    found = self.reuse(result.name, comment)
                    yield found or self._made(ContentLayer(self._making, root, changes, tree), comment)

    def _new_files(self) -> NewFiles:
        """Return where new layers are written until they are complete, and their content is known."""
        if self._files is None:
            self._files = NewFiles(self.folder)
            self._journal.outputs(self._files.stem)
            self._held.callback(self._files.sweep)
        return self._files

    def _keep(self, new: NewLayer, comment: str) -> Blob:
        """Give a layer that was just written its name and its record."""
        path = self.folder / name_of(new.key)
        self.clean.update(new.clean[at : at + 32] for at in range(0, len(new.clean), 32))
        for at in range(0, len(new.sha1), 52):
            self.sha1[new.sha1[at : at + 32].hex()] = new.sha1[at + 32 : at + 52].hex()
        blob = replace(new.blob, comment=comment, path=path)
        self._hold(new.file)  # the lock goes with the file
        with lock(names_lock(self.folder)):
            new.file.rename(path)
            self._record(blob, new)
        if new.parts is not None:
            new.parts.rename(chunks_path(path))
        self._used.append(path.name)
        return blob

    def _record(self, blob: Blob, new: NewLayer) -> None:
        protect(blob.path)
        BlobRecord(
            digest=blob.digest, size=blob.size, diff_id=blob.diff_id, media_type=blob.media_type,
            comment=blob.comment, key=new.key, seconds=new.seconds, brought=blob.brought, stamp=(), boot="",
        ).seen(blob.path).save(blob.path)  # fmt: skip

    def drop_damaged(self, blobs: Iterable[Blob]) -> None:
        """Remove those layers that do not have their digest, so that the next build makes them again."""
        for blob in blobs:
            with contextlib.suppress(OSError):
                if blob.path.parent == self.folder and sha256_file(blob.path) != blob.digest:
                    self.drop(blob.path)

    def drop(self, path: Path) -> None:
        """Remove a layer that is damaged, whoever uses it."""
        with contextlib.suppress(OSError), lock(names_lock(self.folder)):
            remove(path)
