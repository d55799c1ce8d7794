"""Record the image in a store of contents: `.files.json` says which list it became, and where it is.

The contents are stored while the tree is read for every format, then the list; its ref is set when the build
commits its outputs, so that a build that fails leaves none.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from buildstep.emit import oci_config
from buildstep.emit.interface import Artifact, EmitJob, Sink, StoreTarget, new_file
from buildstep.emit.selection import Selection
from buildstep.errors import UsageError
from buildstep.events import Bus
from buildstep.files import layout, open_storage, refs
from buildstep.files.content import ContentStore
from buildstep.files.interface import ReadOnly
from buildstep.files.refs import Ref, RefChanged
from buildstep.files.session import Session, StoredList
from buildstep.formats.codecs import Compression
from buildstep.formats.tar_writer import second_of
from buildstep.system.files import CHUNK, write_all
from buildstep.system.output_set import Outputs, seal
from buildstep.tree.entry import Entry, FileList

EXTENSION = ".files.json"
FORMAT = "buildstep.files"
FORMAT_VERSION = 1
_WHOLE = 8 << 20
"""Bytes up to which a file is held in memory until it is stored."""
_BATCH, _BATCH_BYTES = 256, 16 << 20
"""Files, and their bytes, that are looked for in the store together."""
_WAITING = 2
"""Batches that wait to be stored, while the next one is read."""


class FilesEmitter:
    """`.files.json` beside the store. A store compresses as it was made to: -c is about the other formats."""

    name: ClassVar[str] = "files"
    compressions: ClassVar[tuple[Compression, ...]] = ("none", "gzip", "zstd", "xz", "bzip2")
    sends_dataset: ClassVar[bool] = False
    layered: ClassVar[bool] = False
    directory: ClassVar[bool] = False

    def extension(self, compression: str | None) -> str:
        return EXTENSION

    @contextlib.contextmanager
    def open(self, job: EmitJob, path: Path) -> Iterator[Sink]:
        """See `Emitter`. Raises StoreError."""
        target = _named(job.target)
        store = _store(target, job.bus)
        store.create()
        before = refs.read(store.storage, target.ref)
        with new_file(path) as fd, contextlib.ExitStack() as stack:
            session = stack.enter_context(Session(store, f"build {job.stem.name}"))
            with _Worker() as worker:
                sink = _FilesSink(job, target, (path, fd), session, worker, before, stack)
                try:
                    yield sink
                finally:
                    sink.abandon()

    def check(self, target: StoreTarget | None, bus: Bus) -> str:
        """See `Recording`."""
        known = _named(target)
        layout.ref_name(known.ref)
        _selection(known)
        store = _store(known, bus)
        if not store.storage.writable:
            raise ReadOnly(
                f"{store.storage.url} cannot be written to, and the image is to be recorded in it",
                hint="name another store with --store, or leave the format files out",
            )
        there = store.is_there()
        refs.read(store.storage, known.ref)
        return f"{store.storage.url}{'' if there else ', which is made,'} takes the image as {known.ref}"

    def recorded(self, target: StoreTarget | None, facts: Mapping[str, Any], bus: Bus) -> bool:
        """See `Recording`."""
        known = _named(target)
        storage = _store(known, bus).storage
        ref = refs.read(storage, known.ref)
        digest = str(facts.get("list", ""))
        return (
            ref is not None
            and ref.list == digest
            and layout.is_digest(digest)
            and bool(storage.exists([layout.list_name(digest)]))
        )


def _named(target: StoreTarget | None) -> StoreTarget:
    if target is None or not target.url:
        raise UsageError(
            "the format files needs a store",
            hint="give --store, build.store in the m.json or BUILDSTEP_STORE, such as dir:/srv/store",
        )
    return target


def _store(target: StoreTarget, bus: Bus) -> ContentStore:
    return ContentStore(open_storage(target.url, environ=target.environ, bus=bus), bus=bus, kept=target.kept)


def _selection(target: StoreTarget) -> Selection | None:
    return Selection(target.outputs, target.strip) if target.outputs or target.strip else None


def _leaders(tree: FileList, paths: set[bytes]) -> set[bytes]:
    """Return the paths by which the contents of these are read: a hard-link group is read by its first."""
    return {tree[path].first or path for path in paths}


class _Worker:
    """Stores what was read, in one thread beside the read pass; a few jobs may wait. A context manager."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="files")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, job: Callable[[], None]) -> None:
        """Add a job; raises what an earlier one raised."""
        while len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(job))

    def wait(self) -> None:
        """Wait for all jobs; raises what one of them raised."""
        while self._waiting:
            self._waiting.popleft().result()


class _Pipe:
    """A large file on its way to the worker, which reads it as a stream."""

    def __init__(self, worker: _Worker, session: Session, size: int) -> None:
        self._worker = worker
        read, self._write = os.pipe()

        def store() -> None:
            with os.fdopen(read, "rb", buffering=CHUNK) as stream:
                session.put_stream(stream, size)

        try:
            worker.submit(store)
        except BaseException:
            os.close(read)
            os.close(self._write)
            raise

    def write(self, chunk: bytes) -> None:
        try:
            write_all(self._write, chunk)
        except BrokenPipeError:  # the worker says why
            self.close()
            self._worker.wait()
            raise

    def close(self) -> None:
        """The end of the file."""
        if self._write >= 0:
            os.close(self._write)
            self._write = -1


class _FilesSink:
    scope: Literal["tree", "layer"] = "tree"

    def __init__(
        self,
        job: EmitJob,
        target: StoreTarget,
        file: tuple[Path, int],
        session: Session,
        worker: _Worker,
        before: Ref | None,
        stack: contextlib.ExitStack,
    ) -> None:
        self._job = job
        self._target = target
        self._path, self._fd = file
        self._session = session
        self._worker = worker
        self._before = before
        self._stack = stack
        self._stored: StoredList | None = None
        self._selection = _selection(target)
        self._wanted = (
            None if self._selection is None else _leaders(job.tree, self._selection.paths(job.tree))
        )
        known = {entry.sha256 for entry in job.tree.values() if entry.kind == "f" and entry.sha256}
        self._there = session.has(known)
        self._skips = False
        self._parts: list[bytes] = []
        self._pipe: _Pipe | None = None
        self._batch: list[bytes] = []
        self._batch_bytes = 0

    # -- the read pass -----------------------------------------------------------------------------

    def begin(self, entry: Entry) -> None:
        # The read pass compares what it reads with the digest that is known.
        self._skips = (
            entry.kind != "f"
            or bool(entry.first)
            or entry.sha256 in self._there
            or (self._wanted is not None and entry.path not in self._wanted)
        )
        if not self._skips and entry.size > _WHOLE:
            self._send()
            self._pipe = _Pipe(self._worker, self._session, entry.size)

    def data(self, offset: int, chunk: bytes) -> None:
        if self._pipe is not None:
            self._pipe.write(chunk)
        elif not self._skips:
            self._parts.append(chunk)

    def end(self, entry: Entry) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        elif not self._skips:
            self._batch.append(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
            self._batch_bytes += entry.size
            self._parts = []
            if len(self._batch) >= _BATCH or self._batch_bytes >= _BATCH_BYTES:
                self._send()

    def _send(self) -> None:
        """Have the batch stored."""
        batch, self._batch, self._batch_bytes = self._batch, [], 0

        def store() -> None:
            found = {hashlib.sha256(data).hexdigest(): data for data in batch}
            for digest in found.keys() - self._session.has(found):
                self._session.put(found[digest], digest)

        if batch:
            self._worker.submit(store)

    def abandon(self) -> None:
        """Let go of a file that was not read to its end."""
        if self._pipe is not None:
            self._pipe.close()

    # -- the list and its ref ----------------------------------------------------------------------

    def finish(self) -> Artifact:
        self._send()
        self._worker.wait()
        tree = self._job.tree if self._selection is None else self._selection.take(self._job.tree)
        stored = self._stored = self._session.put_list(_settled(tree, self._job.style.epoch))
        facts = {
            "store": self._session.store.storage.url,
            "ref": self._target.ref,
            "list": stored.digest,
            "tree": stored.tree,
            "entries": stored.entries,
            "bytes": stored.size,
        }
        value = {"format": FORMAT, "format_version": FORMAT_VERSION, **facts}
        write_all(self._fd, json.dumps(value, indent=2).encode() + b"\n")
        new = {"new_contents": self._session.new_objects, "new_bytes": self._session.new_bytes}
        return Artifact.of(self._path, FilesEmitter.name, seal(self._fd), "none", {**facts, **new})

    def join(self, outputs: Outputs) -> None:
        """See `Joining`: the lease holds until the outputs are committed or discarded."""
        outputs.at_commit(self._set_ref, self._stack.pop_all())

    def _set_ref(self) -> None:
        """Set the ref. Raises RefChanged, unless whoever changed it recorded the same; StoreError."""
        stored, storage = self._stored, self._session.store.storage
        assert stored is not None
        ref = Ref(
            name=self._target.ref, list=stored.digest, tree=stored.tree, entries=stored.entries,
            size=stored.size, notes={**self._target.notes, "config": oci_config.run_config(self._job)},
        )  # fmt: skip
        try:
            self._session.set_ref(ref, self._before)
        except RefChanged:
            there = refs.read(storage, ref.name)
            if there is None or there.list != ref.list:
                raise


def _settled(tree: FileList, epoch: int | None) -> FileList:
    """Return the list with the times that an archive has: every format is of one tree."""
    found: FileList = {}
    for path, entry in tree.items():
        time = second_of(entry, epoch) * 1_000_000_000
        found[path] = entry
        if time != entry.mtime:
            found[path] = copy.copy(entry)
            found[path].mtime = time
    return found
