"""Compare two file lists: what was added, removed, changed and moved, and how large both are.

Two lists of one image in two versions are the same in nearly every line. So the lines are compared first, as
they are, and only those that differ are parsed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from buildstep.errors import StoreError
from buildstep.tree.entry import HEADER, Entry, FileList, digest_of, line, parse

Aspect = Literal[
    "kind", "content", "size", "mode", "owner", "target", "device", "xattrs", "hard links", "time"
]
"""What of an entry can be another; in this order wherever it is told."""

Word = Literal["added", "removed", "changed", "moved"]

Content = Callable[[Entry], bytes | None]
"""Returns the content of a regular file; None where that is not at hand."""

_TWICE = "a damaged file list: it has a path twice"
_UNHASHED = re.compile(rb"^f\t[0-7]+\t[0-9]+\t[0-9]+\t[0-9]+\t-\t", re.MULTILINE)
_FIELDS = 9
"""Of a canonical line; a stored one has the time as a tenth."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How large a tree is. size: bytes of all files, each hard-link group once; unique: bytes of all
    contents, each once, as a content store keeps them."""

    entries: int = 0
    files: int = 0
    size: int = 0
    unique: int = 0


@dataclass(frozen=True)
class Listing:
    """A file list as its lines, canonical or stored ones, without line ends.

    lacks: aspects that the form it was read from cannot tell, so that they are not compared.
    """

    rows: tuple[bytes, ...]
    lacks: frozenset[Aspect] = frozenset()

    @classmethod
    def read(cls, data: bytes) -> Listing:
        """Return the list in a stored or canonical form (`tree.entry.dumps`), its lines not yet looked at.

        Raises StoreError for what is none, or was cut short.
        """
        if not data.startswith(HEADER):
            raise StoreError("not a file list of a format that this version reads")
        if not data.endswith(b"\n"):
            raise StoreError("a damaged file list: it ends inside of a line", hint="copy or make it again")
        return cls(tuple(data[len(HEADER) :].split(b"\n")[:-1]))

    @classmethod
    def of(cls, entries: FileList, *, lacks: Iterable[Aspect] = ()) -> Listing:
        """Return the list of these entries, with their times."""
        rows = (line(entries[path])[:-1] + b"\t%d" % entries[path].mtime for path in sorted(entries))
        return cls(tuple(rows), frozenset(lacks))

    @property
    def timed(self) -> bool:
        """Whether its lines have times."""
        return all(row.count(b"\t") == _FIELDS for row in self.rows[:1])

    @functools.cached_property
    def digest(self) -> str:
        """The tree digest; empty where a file has not been hashed or the list lacks something."""
        text = b"".join([_without_time(row) + b"\n" for row in self.rows])
        return "" if self.lacks or _UNHASHED.search(text) else digest_of([text])

    def entries(self) -> Iterator[Entry]:
        """Yield every entry. Raises StoreError for a damaged line."""
        return _parsed(self.rows)

    def find(self, path: bytes) -> Entry | None:
        """Return the entry of a path of plain ASCII; None if it is not there."""
        return next((entry for entry in self.containing(b"\t" + path) if entry.path == path), None)

    def containing(self, part: bytes) -> Iterator[Entry]:
        """Yield the entries whose line has this in it, found in one text of all, which is quicker."""
        at = self._text.find(part)
        while at >= 0:
            begin, end = self._text.rfind(b"\n", 0, at) + 1, self._text.find(b"\n", at)
            yield from _parsed([self._text[begin:end]])
            at = self._text.find(part, end)

    @functools.cached_property
    def _text(self) -> bytes:
        return b"".join([row + b"\n" for row in self.rows])


def _without_time(row: bytes) -> bytes:
    return row.rpartition(b"\t")[0] if row.count(b"\t") == _FIELDS else row


def _parsed(rows: Iterable[bytes]) -> Iterator[Entry]:
    try:
        for row in rows:
            yield parse(row)
    except (ValueError, KeyError) as error:
        raise StoreError(f"a damaged file list: {error}") from error


# -- what differs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs. old, new: its entry in each list, None where it has none; what: for `changed`
    and `moved` what of it is another; copy_of: where the old list has the content of an added file.

    A file has moved where its content was removed under one path, which is in `old`, and added under another.
    """

    word: Word
    old: Entry | None
    new: Entry | None
    what: tuple[Aspect, ...] = ()
    copy_of: bytes = b""

    @property
    def entry(self) -> Entry:
        """The new entry; of a removed path the old one."""
        found = self.new or self.old
        assert found is not None
        return found

    @property
    def path(self) -> bytes:
        return self.entry.path

    @property
    def growth(self) -> int:
        """Bytes by which the tree grew here, below zero where it shrank."""
        return weight(self.new) - weight(self.old)


def weight(entry: Entry | None) -> int:
    """Return the bytes that an entry adds to its tree: a later member of a hard-link group adds none."""
    return entry.size if entry is not None and entry.kind == "f" and not entry.first else 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two lists, sorted by path. skipped: aspects that one of the lists cannot tell."""

    old: Figures
    new: Figures
    changes: tuple[Change, ...]
    skipped: frozenset[Aspect] = frozenset()

    def of(self, word: Word) -> list[Change]:
        """Return the changes of one kind."""
        return [change for change in self.changes if change.word == word]


def compare(old: Listing, new: Listing, *, times: bool = False) -> Comparison:
    """Return what differs between two lists. times: one that differs is a change, where both lists have them.

    Raises StoreError for a damaged line.
    """
    times = times and old.timed and new.timed
    before, after = set(old.rows), set(new.rows)
    if len(before) < len(old.rows) or len(after) < len(new.rows):
        raise StoreError(_TWICE)
    same = _Same()
    same.add(before & after)
    before, after = before - after, after - before
    if not times:
        before, after = set(map(_without_time, before)), set(map(_without_time, after))
        same.add(before & after)
        before, after = before - after, after - before
    was, now = same.others(before, after)
    lacks = old.lacks | new.lacks
    changes = _changes(was, now, same, lacks if times else lacks | {"time"})
    return Comparison(same.figures(was.values()), same.figures(now.values()), tuple(changes), lacks)


@dataclass(slots=True)
class _Same:
    """What both lists have: how much it is, its contents with their sizes, and where each path has which.

    unhashed: bytes of files whose content is not known; paths are as they are written in a list.
    """

    entries: int = 0
    files: int = 0
    size: int = 0
    unhashed: int = 0
    contents: dict[bytes, int] = field(default_factory=dict)
    paths: list[bytes] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)

    def add(self, rows: Collection[bytes]) -> None:
        """Take lines that both lists have: by columns, which costs a fraction of what entries would."""
        if not rows:
            return
        tabs = {row.count(b"\t") for row in rows}
        width = min(tabs) + 1
        if len(tabs) > 1 or width not in (_FIELDS, _FIELDS + 1):
            raise StoreError("a damaged file list: a line with fields too many or too few")
        cells = b"\t".join(rows).split(b"\t")
        kinds, sizes, digests, firsts, paths = (cells[at::width] for at in (0, 4, 5, 6, 8))
        try:
            numbers = list(map(int, sizes))
        except ValueError as error:
            raise StoreError(f"a damaged file list: {error}") from error
        self.entries += len(kinds)
        files = kinds.count(b"f")
        self.files += files
        self.size += sum(numbers)
        # Only few are a later member of a hard-link group, or have not been hashed.
        if firsts.count(b"-") < len(firsts):
            linked = zip(kinds, firsts, numbers, strict=True)
            self.size -= sum(size for kind, first, size in linked if kind == b"f" and first != b"-")
        if digests.count(b"-") > len(kinds) - files:
            unhashed = zip(digests, firsts, numbers, strict=True)
            self.unhashed += sum(size for digest, first, size in unhashed if digest == first == b"-")
        self.contents.update(zip(digests, numbers, strict=True))
        self.contents.pop(b"-", None)
        self.paths += paths
        self.digests += digests

    def others(self, *both: Collection[bytes]) -> tuple[FileList, ...]:
        """Return the entries of the lines that only one list has, for each. Raises StoreError for a path
        that one has twice."""
        common = set(self.paths)
        if len(common) < len(self.paths):
            raise StoreError(_TWICE)
        made = []
        for rows in both:
            found = {entry.path: entry for entry in _parsed(rows)}
            if len(found) < len(rows) or any(row.split(b"\t")[_FIELDS - 1] in common for row in rows):
                raise StoreError(_TWICE)
            made.append(found)
        return tuple(made)

    def figures(self, others: Iterable[Entry]) -> Figures:
        """Return how large a list is that has these entries beside what both have."""
        entries, files, size, unique = 0, 0, 0, sum(self.contents.values()) + self.unhashed
        contents: dict[str, int] = {}
        for entry in others:
            entries += 1
            files += entry.kind == "f"
            size += weight(entry)
            if not entry.sha256:
                unique += weight(entry)
            elif entry.sha256.encode() not in self.contents:
                contents[entry.sha256] = entry.size
        unique += sum(contents.values())
        return Figures(self.entries + entries, self.files + files, self.size + size, unique)

    def paths_of(self, digests: Collection[str]) -> dict[str, bytes]:
        """Return the first path of each of these contents that is here."""
        wanted = {digest.encode() for digest in digests}
        found: dict[str, bytes] = {}
        if wanted:
            pairs = zip(self.digests, self.paths, strict=True)
            for digest, path in sorted(pair for pair in pairs if pair[0] in wanted):
                found.setdefault(digest.decode(), parse(b"f\t0\t0\t0\t0\t-\t-\t-\t" + path).path)
        return found


def _changes(was: FileList, now: FileList, same: _Same, skipped: Collection[Aspect]) -> list[Change]:
    """Return the changes from entries that only the old list has to those that only the new one has."""
    changes = [
        Change("changed", was[path], now[path], what)
        for path in was.keys() & now.keys()
        if (what := _what(was[path], now[path], skipped))
    ]
    removed = [was[path] for path in sorted(was.keys() - now.keys())]
    added = [now[path] for path in sorted(now.keys() - was.keys())]
    moved = _moved(removed, added)
    taken = {entry.path for pair in moved for entry in pair}
    changes += [Change("moved", *pair, _what(*pair, skipped)) for pair in moved]
    changes += [Change("removed", entry, None) for entry in removed if entry.path not in taken]
    rest = [entry for entry in added if entry.path not in taken]
    known = {entry.sha256: path for path, entry in sorted(was.items(), reverse=True)}
    known |= same.paths_of({entry.sha256 for entry in rest if _has_content(entry)})
    changes += [
        Change("added", None, entry, copy_of=known.get(entry.sha256, b"") if _has_content(entry) else b"")
        for entry in rest
    ]
    return sorted(changes, key=lambda change: change.path)


def _what(old: Entry, new: Entry, skipped: Collection[Aspect]) -> tuple[Aspect, ...]:
    """Return what of an entry is another. Where the kind is, what only one of the kinds has is left out."""
    same, links = old.kind == new.kind, "l" in (old.kind, new.kind)
    rows: tuple[tuple[Aspect, bool], ...] = (
        ("kind", not same),
        ("content", same and bool(old.sha256 and new.sha256) and old.sha256 != new.sha256),
        ("size", same and old.size != new.size),
        ("mode", (same or not links) and old.mode != new.mode),
        ("owner", (old.uid, old.gid) != (new.uid, new.gid)),
        ("target", same and old.target != new.target),
        ("device", same and old.rdev != new.rdev),
        ("xattrs", old.xattrs != new.xattrs),
        ("hard links", same and old.first != new.first),
        ("time", old.mtime != new.mtime),
    )
    return tuple(aspect for aspect, differs in rows if differs and aspect not in skipped)


def _has_content(entry: Entry) -> bool:
    """Whether a content says something of where it is from: an empty one is the same everywhere."""
    return entry.kind == "f" and bool(entry.sha256) and entry.size > 0


def _moved(removed: Iterable[Entry], added: Iterable[Entry]) -> list[tuple[Entry, Entry]]:
    """Return pairs of a removed and an added file of one content: those of one name first, then in order.

    The same pairs come out with both lists exchanged.
    """
    old = [entry for entry in removed if _has_content(entry)]
    new = [entry for entry in added if _has_content(entry)]
    pairs: list[tuple[Entry, Entry]] = []
    for named in (True, False):
        there: dict[tuple[str, bytes], list[Entry]] = {}
        for entry in reversed(old):
            there.setdefault(_content_key(entry, named=named), []).append(entry)
        found = [
            (rest.pop(), entry) for entry in new if (rest := there.get(_content_key(entry, named=named), []))
        ]
        pairs += found
        taken = {id(entry) for pair in found for entry in pair}
        old = [entry for entry in old if id(entry) not in taken]
        new = [entry for entry in new if id(entry) not in taken]
    return pairs


def _content_key(entry: Entry, *, named: bool) -> tuple[str, bytes]:
    return entry.sha256, entry.path.rpartition(b"/")[2] if named else b""
