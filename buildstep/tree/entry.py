"""File lists: one record per path of a tree, their canonical text, the tree digest, and what differs.

Canonical text: the line `buildstep-filelist 1`, then one line per path, sorted by the path's bytes, with
tab-separated fields: kind, permissions (octal), uid, gid, size, sha256, target, xattrs, path. kind is one
of f d l c b p s. target is a link's text, `major:minor` of a device, and for the later members of a
hard-link group the group's first path, after `\\=` where it follows one of those. A field without a
value is `-`; bytes outside 0x21..0x7e, the backslash, and a field that is only a dash are written
`\\xNN`. The tree digest is the SHA-256 of that text. Times are not part of it.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from buildstep.errors import EmitError, StoreError
from buildstep.system.text import shown_path

HEADER = b"buildstep-filelist 1\n"
_LINKED = b"\\="
"""Between what a link or a device is and the first path of its hard-link group; no escape looks like it."""

KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
}
TYPE_BITS = {kind: bits for bits, kind in KINDS.items()}

Xattrs = tuple[tuple[bytes, bytes], ...]

LONGEST = 3500
"""Bytes that a path in an image may have. The kernel takes 4095 in one call, and the place where an image is
unpacked or built has a path as well; a directory nested deeper serves nothing but to break tools."""


LARGEST = 1 << 42
"""Bytes that a file of an image may have, holes included: reading and hashing more takes hours."""


class PathTooLong(EmitError):
    """A path of a tree that no image can have."""


def check_length(path: bytes, limit: int = LONGEST) -> None:
    """Raise PathTooLong for a path in a tree of more than `limit` bytes."""
    if len(path) > limit:
        allowed = (
            f"an image can have {limit}" if limit == LONGEST else f"where it is there is room for {limit}"
        )
        raise PathTooLong(
            f"a path of {len(path)} bytes, and {allowed}: {shown_path(path)}",
            hint="remove it; did a package script make it? the option --keep-on-failure keeps the tree",
        )


def longest_below(top: bytes) -> int:
    """Return the bytes that a path may have in a tree whose own path is `top`."""
    return min(LONGEST, 4095 - len(top) - 1)


@dataclass(slots=True)
class Entry:
    """One path of a tree. path: relative, no leading slash, b"" for the top; mtime: nanoseconds.

    sha256 is empty until somebody has read the file. first: for the later members of a hard-link group,
    the path of the first one. source: where the content is when it is not under the tree's own root.
    """

    path: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    size: int = 0
    sha256: str = ""
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: Xattrs = ()
    first: bytes = b""
    mtime: int = 0
    source: bytes = b""
    text: bytes = field(default=b"", init=False, compare=False, repr=False)
    """The canonical line once it is known; whoever changes an entry after that empties it."""

    def same_metadata(self, other: Entry) -> bool:
        """Equal in all but content and time."""
        return (
            self.kind == other.kind
            and self.mode == other.mode
            and self.uid == other.uid
            and self.gid == other.gid
            and self.size == other.size
            and self.target == other.target
            and self.first == other.first
            and self.rdev == other.rdev
            and self.xattrs == other.xattrs
        )


FileList = dict[bytes, Entry]
"""Path to entry. Sorted by path wherever it is read or written."""


# -- canonical text -----------------------------------------------------------------------------------

_PLAIN = re.compile(rb"[\x21-\x5b\x5d-\x7e]*")


def _escape(raw: bytes) -> bytes:
    if raw == b"-":
        return b"\\x2d"
    if _PLAIN.fullmatch(raw):
        return raw
    return b"".join(b"%c" % c if 0x21 <= c <= 0x7E and c != 0x5C else b"\\x%02x" % c for c in raw)


def _unescape(raw: bytes) -> bytes:
    if b"\\" not in raw:
        return raw
    return re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes([int(m[1], 16)]), raw)


def line(entry: Entry) -> bytes:
    """The canonical line of one entry, with its line end."""
    if entry.text:
        return entry.text
    target = b""
    if entry.kind == "l":
        target = _escape(entry.target)
    elif entry.kind in "cb":
        target = b"%d:%d" % entry.rdev
    if entry.first:
        target += (_LINKED if target else b"") + _escape(entry.first)
    xattrs = b",".join(_escape(k).replace(b",", b"\\x2c") + b"=" + v.hex().encode() for k, v in entry.xattrs)
    text = b"%s\t%04o\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n" % (
        entry.kind.encode(),
        entry.mode,
        entry.uid,
        entry.gid,
        entry.size if entry.kind == "f" else 0,
        entry.sha256.encode() if entry.kind == "f" and entry.sha256 else b"-",
        target or b"-",
        xattrs or b"-",
        _escape(entry.path) or b".",
    )
    if entry.kind != "f" or entry.sha256:
        entry.text = text
    return text


def tree_digest(entries: FileList) -> str:
    """Hex SHA-256 over the canonical text. Every regular file must have been hashed."""
    return digest_of(lines_of(entries))


def lines_of(entries: FileList) -> list[bytes]:
    """The canonical lines of a tree. Every regular file must have been hashed."""
    return texts_of(entries[path] for path in sorted(entries))


def texts_of(entries: Iterable[Entry]) -> list[bytes]:
    """The canonical line of each entry, as `line` returns it. Every regular file must have been hashed."""
    found = []
    heads: dict[tuple[int, int, int], bytes] = {}
    plain = _PLAIN.fullmatch
    for entry in entries:
        text = entry.text
        if not text and entry.kind == "f":
            if not entry.sha256:
                raise AssertionError(f"{os.fsdecode(entry.path)} has not been hashed")
            if not entry.first and not entry.xattrs and plain(entry.path) and entry.path != b"-":
                # Nearly every one: as `line` has it, in half the time.
                key = entry.mode, entry.uid, entry.gid
                head = heads.get(key) or heads.setdefault(key, b"f\t%04o\t%d\t%d\t" % key)
                text = b"%b%d\t%b\t-\t-\t%b\n" % (head, entry.size, entry.sha256.encode(), entry.path)
                entry.text = text
        found.append(text or line(entry))
    return found


def digest_of(lines: Iterable[bytes]) -> str:
    """The tree digest of a tree with these canonical lines, which are in order."""
    digest = hashlib.sha256(HEADER)
    digest.update(b"".join(lines))
    return digest.hexdigest()


def dumps(entries: FileList, lines: Sequence[bytes] = ()) -> bytes:
    """The stored form: the canonical text with each entry's mtime (ns) as a tenth field.

    lines: the canonical ones of all entries in order, if they are known.
    """
    paths = sorted(entries)
    known = lines or [line(entries[path]) for path in paths]
    rows = [b"%s\t%d\n" % (text[:-1], entries[path].mtime) for text, path in zip(known, paths, strict=True)]
    return HEADER + b"".join(rows)


def loads(data: bytes) -> FileList:
    """Read the stored or the canonical form. Raises StoreError for anything else."""
    if not data.startswith(HEADER):
        raise StoreError("not a file list of a format that this version reads")
    entries: FileList = {}
    rows = data[len(HEADER) :].splitlines()
    try:
        for row in rows:
            entry = parse(row)
            entries[entry.path] = entry
    except (ValueError, KeyError) as error:
        raise StoreError(f"a damaged file list: {error}") from error
    if len(entries) < len(rows):
        raise StoreError("a damaged file list: it has a path twice")
    return entries


def parse(row: bytes) -> Entry:
    """The entry of a line, stored or canonical. Raises ValueError for what is none."""
    kind, mode, uid, gid, size, digest, target, xattrs, path, *rest = row.rstrip(b"\n").split(b"\t")
    if kind in (b"f", b"d") and target == xattrs == b"-" and b"\\" not in path:  # nearly every one
        return Entry(
            path if path != b"." else b"", kind.decode(), int(mode, 8), int(uid), int(gid), int(size),
            "" if digest == b"-" else digest.decode(), mtime=int(rest[0]) if rest else 0,
        )  # fmt: skip
    entry = Entry(
        path=b"" if path == b"." else _unescape(path),
        kind=kind.decode(),
        mode=int(mode, 8),
        uid=int(uid),
        gid=int(gid),
        size=int(size),
        sha256="" if digest == b"-" else digest.decode(),
        mtime=int(rest[0]) if rest else 0,
    )
    if entry.kind not in TYPE_BITS:
        raise ValueError(f"kind {entry.kind!r}")
    if xattrs != b"-":
        pairs = (pair.rpartition(b"=") for pair in xattrs.split(b","))
        entry.xattrs = tuple((_unescape(k), bytes.fromhex(v.decode())) for k, _, v in pairs)
    if entry.kind in "lcb":
        target, _, first = target.partition(_LINKED)
        entry.first = _unescape(first)
    if target != b"-":
        if entry.kind == "l":
            entry.target = _unescape(target)
        elif entry.kind in "cb":
            major, _, minor = target.partition(b":")
            entry.rdev = (int(major), int(minor))
        else:
            entry.first = _unescape(target)
    return entry
