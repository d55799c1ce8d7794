"""Record a tree in a store: walk it, read what is new, and store contents, list and ref, in this order.

What lstat said of each file is kept beside the digest of its content (`tree.stat_index`), so that an
unchanged file is not read again; and where nothing at all changed, a walk is all that is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from buildstep.errors import UsageError
from buildstep.files import pack, read_tree, refs
from buildstep.files.content import ContentStore
from buildstep.files.read_tree import Digested, Packed, Read
from buildstep.files.refs import Ref
from buildstep.files.session import Session, StoredList
from buildstep.formats.codecs import codec
from buildstep.formats.tree_storer import Take
from buildstep.report.progress import Advance, Begin, unseen
from buildstep.system import framed, workers
from buildstep.system.files import atomic_write
from buildstep.system.private import private_dir
from buildstep.tree import stat_lines
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.exclude import Exclude, excluder
from buildstep.tree.hashing import open_content, spread_digests
from buildstep.tree.proto import ProtoDir, scan_proto
from buildstep.tree.scan import entry_of
from buildstep.tree.stat_index import StatIndex
from buildstep.tree.stat_lines import Walk

_FORMAT = 1
_GRAIN_NS = 20_000_000
"""No kernel clock that stamps files is coarser than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a tree is recorded. exclude: rsync's patterns of what is left out; clamp: the latest mtime (s) that
    the list tells, None for no limit; owner: (uid, gid) of every path, None as they are on disk."""

    exclude: tuple[str, ...] = ()
    clamp: int | None = None
    owner: tuple[int, int] | None = None

    def apply(self, entries: FileList) -> None:
        """Give entries what the list is to tell of owners and times."""
        if self.owner is not None:
            for item in entries.values():
                item.uid, item.gid = self.owner
                item.text = b""
        if self.clamp is not None:
            limit = self.clamp * 1_000_000_000
            for item in entries.values():
                item.mtime = min(item.mtime, limit)


@dataclass(frozen=True, kw_only=True, slots=True)
class Put:
    """What was recorded. new_objects, new_bytes: contents that were not in the store; read: files that were
    read; unchanged: nothing in the tree changed since the last time."""

    stored: StoredList
    new_objects: int = 0
    new_bytes: int = 0
    read: int = 0
    unchanged: bool = False


def put_tree(
    store: ContentStore, tree: Path, *, ref: str, options: Options, state: Path | None, begin: Begin = unseen
) -> Put:
    """Record a tree, and set a ref to it if one is named. state: where what is known of a tree is kept.

    Raises UsageError for a tree that cannot be recorded; FileChanged where something writes to it meanwhile;
    StoreError, RefChanged, LeaseLost, OSError. Then no ref was changed.
    """
    before = refs.read(store.storage, ref) if ref else None
    walk = _walk(os.fsencode(tree))
    last = _Last(state, tree, store.settings.id, options)
    with Session(store, f"put {tree}") as session:
        found = last.same(walk)
        if found is not None and session.has_list(found.digest):
            done = Put(stored=found, unchanged=True)
        else:
            done = _Reading(session, tree, options, begin).run(walk, state)
            last.keep(walk, done.stored)
        _point(session, ref, done.stored, before)
    return done


def put_listed(store: ContentStore, ref: str, options: Options, read: Callable[[Take], FileList]) -> Put:
    """Record a tree that is not on a disk, such as one in an archive, and set a ref to it if one is named.

    read: is given what takes the content of a file, gives it all of them, and returns the list.
    Raises StoreError, RefChanged, LeaseLost, and what `read` raises. Then no ref was changed.
    """
    before = refs.read(store.storage, ref) if ref else None
    with Session(store, "put") as session:
        entries = read(session.put_stream)
        options.apply(entries)
        done = Put(
            stored=session.put_list(entries),
            new_objects=session.new_objects,
            new_bytes=session.new_bytes,
            read=sum(item.kind == "f" and not item.first for item in entries.values()),
        )
        _point(session, ref, done.stored, before)
    return done


def _point(session: Session, name: str, stored: StoredList, before: Ref | None) -> None:
    """Set a ref, if one is named, unless it is of this list already. before: what it was."""
    if not name or (before is not None and before.list == stored.digest):
        return
    new = Ref(name=name, list=stored.digest, tree=stored.tree, entries=stored.entries, size=stored.size)
    session.set_ref(new, before)


def _walk(top: bytes) -> Walk:
    if not os.path.isdir(top):
        raise UsageError(f"{os.fsdecode(top)} is no directory")
    with stat_lines.walking(top, large=True) as walked:
        return walked()


class _Reading:
    """Reads what a store does not have of a tree, and stores it."""

    def __init__(self, session: Session, tree: Path, options: Options, begin: Begin) -> None:
        self._session = session
        self._tree = tree
        self._options = options
        self._begin = begin
        self._new_objects = self._new_bytes = 0

    def run(self, walk: Walk, state: Path | None) -> Put:
        """Read and store; the list is stored, no ref is set."""
        options = self._options
        index = StatIndex(state, self._tree) if state else None
        exclude = _excluder(options.exclude)
        proto = scan_proto(self._tree, exclude=exclude, index=index, walk=walk, what="the tree")
        entries = dict(proto.entries)
        top = os.fsencode(self._tree)
        entries[b""] = entry_of(b"", top, os.stat(top))
        files = self._missing(entries)
        size = sum(item.size for item in files)
        with self._begin(len(files), size) as advance:
            self._read(files, advance)
        spread_digests(entries)
        proto.unread = proto.unread_size = 0
        with self._saving(proto, index):
            options.apply(entries)
            stored = self._session.put_list(entries)
        return Put(
            stored=stored,
            new_objects=self._new_objects + self._session.new_objects,
            new_bytes=self._new_bytes + self._session.new_bytes,
            read=len(files),
        )

    @contextlib.contextmanager
    def _saving(self, proto: ProtoDir, index: StatIndex | None) -> Iterator[None]:
        """Save what is known of a tree during the block; of a large one in a process of its own."""

        def save(index: StatIndex, say: workers.Send) -> None:
            try:
                proto.save(index)
            except OSError as error:  # the next put reads all files again, and this one is as good
                say(f"what is known of the tree cannot be kept in {index.path}: {error.strerror}")

        warn = partial(self._session.store.bus.note, level="warning")
        if index is None:
            yield
        elif len(proto.fresh) < read_tree.FEW or workers.cores() == 1:
            save(index, warn)
            yield
        else:
            with workers.running([index], save) as values:
                yield
                for said in values:
                    warn(said)

    def _missing(self, entries: FileList) -> list[Entry]:
        """Return the files whose content is not known, or not in the store."""
        files = [item for item in entries.values() if item.kind == "f" and not item.first]
        known = self._session.has({item.sha256 for item in files if item.sha256})
        return [item for item in files if item.sha256 not in known]

    def _read(self, files: Sequence[Entry], advance: Advance) -> None:
        settings = self._session.store.settings
        small = [(item.source, item) for item in files if settings.packed(item.size)]
        large = [item for item in files if not settings.packed(item.size)]
        numbers = read_tree.shares(small, workers.cores())
        known = self._session.catalogue.digests()
        job = read_tree.Job(files=small, known=known, spool=self._session.spool, compress=settings.compress)
        if settings.compress:
            codec("zstd")  # before the workers: they need not import it each

        def work(share: tuple[int, list[int]], send: workers.Send) -> None:
            read_tree.Worker(job, share[0], send).run(share[1])

        if len(numbers) == 1 and len(small) < read_tree.FEW:
            read_tree.Worker(job, 0, partial(self._take, small, advance)).run(numbers[0])
            self._read_large(large, advance)
            return
        with workers.running(list(enumerate(numbers)), work) as values:
            self._read_large(large, advance)
            for value in values:
                self._take(small, advance, value)

    def _read_large(self, files: Sequence[Entry], advance: Advance) -> None:
        """Read what goes into no pack: in memory up to the size of a chunked content, and streamed above."""
        limit = self._session.store.settings.chunk_above or read_tree.IN_MEMORY

        def contents() -> Iterator[tuple[str, bytes]]:
            for item in files:
                if item.size <= limit:
                    data = read_tree.read_file(item.source, item)
                    self._know(item, hashlib.sha256(data).hexdigest())
                    yield item.sha256, data
                    advance(1, item.size)

        self._new_objects += self._session.put_all(contents())
        for item in files:
            if item.size > limit:
                with os.fdopen(open_content(b"", item), "rb", buffering=0) as stream:
                    read_tree.check(stream.fileno(), item)
                    digest = self._session.put_stream(stream, item.size)
                    read_tree.check(stream.fileno(), item)
                self._know(item, digest)
                advance(1, item.size)

    @staticmethod
    def _know(item: Entry, digest: str) -> None:
        if item.sha256 not in ("", digest):
            raise read_tree.changed(item)
        item.sha256 = digest

    def _take(self, small: Sequence[tuple[bytes, Entry]], advance: Advance, value: Any) -> None:
        """Take what a worker sends."""
        match value:
            case Digested():
                for number, digest in zip(value.numbers, value.digests, strict=True):
                    small[number][1].sha256 = digest
            case Packed():
                with value.path.open("rb") as stream:
                    size = value.size

                    def tail(count: int) -> bytes:
                        stream.seek(max(0, size - count))
                        return stream.read(count)

                    index = pack.read_index(tail)
                self._session.add_packs([pack.Written(value.digest, value.path, value.size, index)])
            case Read():
                advance(value.files, value.size)
                self._new_objects += value.new
                self._new_bytes += value.new_size


def _excluder(patterns: tuple[str, ...]) -> Exclude | None:
    """Return what leaves paths out. Raises UsageError for patterns that only rsync itself understands."""
    found = excluder(patterns)
    if found is None:
        wrong = [pattern for pattern in patterns if excluder([pattern]) is None]
        raise UsageError(
            f"these patterns of what to leave out are not understood: {', '.join(wrong or patterns)}",
            hint="names, paths that begin with / at the tree's top, and the signs * ** ? [...] of rsync",
        )
    return found


class _Last:
    """What was recorded of a tree the last time, and the walk that it was of."""

    def __init__(self, state: Path | None, tree: Path, store: str, options: Options) -> None:
        key = repr((os.path.realpath(tree), store, asdict(options))).encode(errors="surrogateescape")
        name = hashlib.sha256(key).hexdigest()[:32]
        self._top = os.fsencode(tree)
        self._path = None if state is None else state / "index" / f"{name}.put"

    def same(self, walk: Walk) -> StoredList | None:
        """Return what was recorded, if the tree is still the same, and surely so."""
        if self._path is None or walk.unread:
            return None
        try:
            for record, _ in framed.read(self._path.read_bytes()):
                if record[0] == _FORMAT and record[1] == self._digest(walk):
                    return StoredList(**record[2])
        except (OSError, TypeError, IndexError):
            pass
        return None

    def keep(self, walk: Walk, stored: StoredList) -> None:
        """Keep what was recorded, unless a file is so young that it could have changed without a trace."""
        if self._path is None or walk.unread or not walk.lines:
            return
        # Seconds with ten decimals, of as many digits each: the latest time is the last in order, too.
        latest = stat_lines.parse(max(walk.lines, key=lambda line: line.split(b" ", 4)[3])).ctime
        if max(latest, os.lstat(self._top).st_ctime_ns) >= walk.started - _GRAIN_NS:
            return
        with contextlib.suppress(OSError):
            private_dir(self._path.parent)
            with atomic_write(self._path, durable=False) as stream:
                framed.write(stream, (_FORMAT, self._digest(walk), asdict(stored)))

    def _digest(self, walk: Walk) -> str:
        top = os.stat(self._top)
        head = (top.st_dev, top.st_ino, top.st_mode, top.st_uid, top.st_gid, top.st_mtime_ns, top.st_ctime_ns)
        return hashlib.sha256(repr(head).encode() + b"\0".join(walk.lines)).hexdigest()
