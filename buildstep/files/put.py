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
from buildstep.files.last_put import LastPut
from buildstep.files.read_tree import Digested, Packed, Read
from buildstep.files.refs import Ref
from buildstep.files.session import Session, StoredList
from buildstep.formats.codecs import codec
from buildstep.formats.tree_storer import Take
from buildstep.report.progress import Advance, Begin, unseen
from buildstep.system import workers
from buildstep.tree import stat_lines
from buildstep.tree.entry import Entry, FileList
from buildstep.tree.exclude import Exclude, excluder
from buildstep.tree.hashing import open_content, spread_digests
from buildstep.tree.proto import ProtoDir, included, scan_proto
from buildstep.tree.scan import entry_of
from buildstep.tree.stat_index import StatIndex
from buildstep.tree.stat_lines import Walk

_Scan = Callable[[], tuple[ProtoDir, FileList]]
"""Returns what is known of a tree, and its list, with the top."""


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
    last = LastPut(state, tree, store.settings.id, asdict(options))
    with Session(store, f"put {tree}") as session:
        found = last.same(walk)
        if found is not None and (again := session.still_has(found)) is not None:
            done = Put(stored=again, unchanged=True)
        else:
            done = _Reading(session, tree, options, begin).run(walk, state)
        if done.stored != found:
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
        if exclude is not None:
            walk = walk._replace(lines=included(walk.lines, exclude, set()))

        def scan() -> tuple[ProtoDir, FileList]:
            proto = scan_proto(self._tree, exclude=exclude, index=index, walk=walk, what="the tree")
            entries = dict(proto.entries)
            top = os.fsencode(self._tree)
            entries[b""] = entry_of(b"", top, os.stat(top))
            return proto, entries

        known = index is not None and index.size > 0
        proto, entries, read = self._read_known(scan) if known else self._read_new(walk, scan)
        spread_digests(entries)
        proto.unread = proto.unread_size = 0
        with self._saving(proto, index):
            options.apply(entries)
            stored = self._session.put_list(entries)
        return Put(
            stored=stored,
            new_objects=self._new_objects + self._session.new_objects,
            new_bytes=self._new_bytes + self._session.new_bytes,
            read=read,
        )

    def _read_known(self, scan: _Scan) -> tuple[ProtoDir, FileList, int]:
        """Read what is not known of a tree, or not in the store; return also how many files that were."""
        proto, entries = scan()
        files = self._missing(entries)
        with self._begin(len(files), sum(item.size for item in files)) as advance:
            self._read(files, advance)
        return proto, entries, len(files)

    def _read_new(self, walk: Walk, scan: _Scan) -> tuple[ProtoDir, FileList, int]:
        """As `_read_known`, of a tree of which nothing is known: small files are read while it is scanned."""
        settings = self._session.store.settings
        unread = read_tree.Unread.of(walk.lines, settings.pack_below or -1)
        numbers = read_tree.shares(unread.by_size, workers.cores())
        if len(numbers) == 1:
            return self._read_known(scan)
        job = self._job("new")

        def work(share: tuple[int, list[int]], send: workers.Send) -> None:
            files = read_tree.of_lines(walk.lines, share[1], os.fsencode(self._tree))
            read_tree.Worker(job, share[0], send).run(files)

        def know(number: int, digest: str) -> None:
            entries[stat_lines.path_of(walk.lines[number])].sha256 = digest

        with self._begin(unread.files, unread.size) as advance:
            with workers.running(list(enumerate(numbers)), work) as values:
                proto, entries = scan()
                for value in values:
                    self._take(know, advance, value)
            files = (item for item in entries.values() if item.kind == "f" and not item.first)
            self._read([item for item in files if not item.sha256], advance)
        return proto, entries, unread.files

    def _job(self, name: str) -> read_tree.Job:
        compress = self._session.store.settings.compress
        if compress:
            codec("zstd")  # before the workers: they need not import it each
        known = self._session.catalogue.digests()
        return read_tree.Job(name=name, known=known, spool=self._session.spool, compress=compress)

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
        small = [item for item in files if settings.packed(item.size)]
        large = [item for item in files if not settings.packed(item.size)]
        by_size: dict[int, list[int]] = {}
        for number, item in enumerate(small):
            by_size.setdefault(item.size, []).append(number)
        numbers = read_tree.shares(by_size, workers.cores())
        job = self._job("")

        def work(share: tuple[int, list[int]], send: workers.Send) -> None:
            read_tree.Worker(job, share[0], send).run(read_tree.of_entries(small, share[1]))

        def know(number: int, digest: str) -> None:
            small[number].sha256 = digest

        if len(numbers) == 1 and len(small) < read_tree.FEW:
            work((0, numbers[0]), partial(self._take, know, advance))
            self._read_large(large, advance)
            return
        with workers.running(list(enumerate(numbers)), work) as values:
            self._read_large(large, advance)
            for value in values:
                self._take(know, advance, value)

    def _read_large(self, files: Sequence[Entry], advance: Advance) -> None:
        """Read what goes into no pack: in memory up to the size of a chunked content, and streamed above."""
        limit = self._session.store.settings.chunk_above or read_tree.IN_MEMORY

        def contents() -> Iterator[tuple[str, bytes]]:
            for item in files:
                if item.size <= limit:
                    data = read_tree.read_file(item.source, item.size, item.mtime)
                    self._know(item, hashlib.sha256(data).hexdigest())
                    yield item.sha256, data
                    advance(1, item.size)

        self._new_objects += self._session.put_all(contents())
        for item in files:
            if item.size > limit:
                with os.fdopen(open_content(b"", item), "rb", buffering=0) as stream:
                    found = (stream.fileno(), item.source, item.size, item.mtime)
                    read_tree.check(*found)
                    digest = self._session.put_stream(stream, item.size)
                    read_tree.check(*found)
                self._know(item, digest)
                advance(1, item.size)

    @staticmethod
    def _know(item: Entry, digest: str) -> None:
        if item.sha256 not in ("", digest):
            raise read_tree.changed(item.source)
        item.sha256 = digest

    def _take(self, know: Callable[[int, str], None], advance: Advance, value: Any) -> None:
        """Take what a worker sends. know: is given the digest of a file, and its number."""
        match value:
            case Digested():
                for number, digest in zip(value.numbers, value.digests, strict=True):
                    know(number, digest)
            case Packed():
                index = pack.index_of(value.path)
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
