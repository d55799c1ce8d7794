"""Check a file list that somebody else may have written, before anything is done with it.

A list says which paths are written, linked and removed: one with `..`, or with a path below a link, would
lead out of the directory that it is for. All faults are found and told together.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from buildstep.errors import Fault, StoreError
from buildstep.files.layout import is_digest
from buildstep.system.text import plural, printable, shown_path
from buildstep.tree.entry import LARGEST, LONGEST, TYPE_BITS, Entry

_SHOWN = 20
_LONGEST_NAME = 255
_LONGEST_TARGET = 4095
_LARGEST_XATTR = 64 << 10
_HIGHEST_ID = 2**32 - 2  # chown(2) takes the next one for "leave it as it is"
_MAJORS, _MINORS = 1 << 12, 1 << 20  # of Linux's device numbers
_LAST_SECOND = 1 << 55
"""Seconds since the epoch that os.utime takes; what a file system cannot hold, the kernel cuts."""
_CAPABILITY = {b"\x01": 12, b"\x02": 20, b"\x03": 24}
"""Bytes of the attribute by its revision (linux/capability.h, struct vfs_cap_data)."""
_EMPTY = hashlib.sha256().hexdigest()

Fold = Callable[[str], str]
"""Returns what a file system makes of a name before it compares it with others."""


class BadList(StoreError):
    """A file list that nothing can be made from. faults: all of them."""

    def __init__(
        self, source: str, faults: list[Fault], *, hint: str = "nothing was touched; who made this list?"
    ) -> None:
        lines = [f"  {fault}" for fault in faults[:_SHOWN]]
        lines += [f"  and {len(faults) - _SHOWN:,} more"] if len(faults) > _SHOWN else []
        super().__init__(
            f"{source} cannot be used as it is: {plural(len(faults), 'fault')}",
            detail="\n".join(lines),
            hint=hint,
        )
        self.faults = tuple(faults)


def require(entries: Iterable[Entry] | Mapping[bytes, Entry], source: str = "the file list") -> None:
    """Raise BadList, with all faults, for a list that has any. source: what the list is, for the message."""
    if faults := check(entries):
        raise BadList(source, faults)


def check(
    entries: Iterable[Entry] | Mapping[bytes, Entry], *, fold: Fold | None = None, limit: int = LONGEST
) -> list[Fault]:
    """Return what is wrong with a file list; nothing for one that can be checked out.

    entries: a file list, or entries in any order, where a path may come twice. fold: how the file system
    that it is for compares names, None: by their bytes (see `folding`). limit: bytes that a path may have.
    """
    if isinstance(entries, Mapping):
        wrong = [path for path, entry in entries.items() if path != entry.path]
        faults = [_fault(path, "is in the list under another name") for path in wrong]
        entries = entries.values()
    else:
        faults = []
    known: dict[bytes, Entry] = {}
    for entry in entries:
        if entry.path in known:
            faults.append(_fault(entry.path, "is in the list twice"))
        known[entry.path] = entry
    sizes: dict[str, int] = {_EMPTY: 0}
    for entry in known.values():
        whys = [*_path_faults(entry.path, limit), *_field_faults(entry)]
        if not whys:
            whys = [*_place_faults(entry, known), *_content_faults(entry, sizes)]
        faults += map(partial(_fault, entry.path), whys)
    if fold is not None:
        faults += _collisions(known, fold)
    return faults


def _fault(path: bytes, why: str) -> Fault:
    return Fault(where=shown_path(path), message=why)


def _path_faults(path: bytes, limit: int) -> Iterator[str]:
    if not path:
        return
    parts = path.split(b"/")
    if b"\0" in path:
        yield "has a NUL byte in its path"
    if not parts[0]:
        yield "is an absolute path"
    elif b"" in parts:
        yield "has an empty component in its path"
    for odd in (b".", b".."):
        if odd in parts:
            yield f"has the component {odd.decode()!r} in its path"
    if len(path) > limit:
        yield f"has a path of {len(path)} bytes, and there is room for {limit}"
    if len(path) > _LONGEST_NAME and max(map(len, parts)) > _LONGEST_NAME:
        yield f"has a name of more than {_LONGEST_NAME} bytes"


def _field_faults(entry: Entry) -> Iterator[str]:
    """Yield what is wrong with an entry by itself, its content aside."""
    if entry.kind not in TYPE_BITS:
        yield f"is of an unknown kind, {printable(entry.kind)!r}"
    if not 0 <= entry.mode <= 0o7777:
        yield f"has the mode {entry.mode:o}, which no file can have"
    if not (0 <= entry.uid <= _HIGHEST_ID and 0 <= entry.gid <= _HIGHEST_ID):
        yield f"has the owner {entry.uid}:{entry.gid}, which no file can have"
    if abs(entry.mtime) // 10**9 >= _LAST_SECOND:
        yield "has a time that no file can have"
    if entry.kind == "l" and (not 0 < len(entry.target) <= _LONGEST_TARGET or b"\0" in entry.target):
        yield "is a link with a target that no link can have"
    major, minor = entry.rdev
    if entry.kind in "cb" and not (0 <= major < _MAJORS and 0 <= minor < _MINORS):
        yield f"is a device with the number {major}:{minor}, which no device can have"
    if not entry.path and entry.kind != "d":
        yield "is the top of the tree, and no directory"
    if entry.xattrs:
        yield from _xattr_faults(entry)


def _xattr_faults(entry: Entry) -> Iterator[str]:
    names = [name for name, _ in entry.xattrs]
    if len(set(names)) < len(names):
        yield "has an attribute twice"
    for name, value in entry.xattrs:
        space, dot, rest = name.partition(b".")
        good = space and dot and rest and b"\0" not in name and len(name) <= _LONGEST_NAME
        if not good or len(value) > _LARGEST_XATTR:
            yield f"has the attribute {shown_path(name)}, which no file can have"
        elif name == b"security.capability" and _CAPABILITY.get(value[3:4]) != len(value):
            yield "has capabilities of a form that no kernel reads"


def _place_faults(entry: Entry, known: Mapping[bytes, Entry]) -> Iterator[str]:
    """Yield what is wrong with an entry among the others."""
    if entry.path:
        folder = entry.path.rpartition(b"/")[0]
        above = known.get(folder)
        if above is None and folder:
            yield f"is in {shown_path(folder)}, which is not in the list"
        elif above is not None and above.kind != "d":
            what = "a link" if above.kind == "l" else "no directory"
            yield f"is below {shown_path(folder)}, which is {what}"
    if not entry.first:
        return
    leader = known.get(entry.first)
    where = shown_path(entry.first)
    if leader is None:
        yield f"is a hard link to {where}, which is not in the list"
    elif leader.first or entry.first >= entry.path:
        yield f"is a hard link to {where}, which is not the first path of its group"
    elif entry.kind == "d" or not entry.same_metadata(_as_member(leader, entry)):
        yield f"is a hard link to {where}, which is something else"
    elif entry.sha256 != leader.sha256:
        yield f"is a hard link to {where}, which has another content"


def _as_member(leader: Entry, entry: Entry) -> Entry:
    return Entry(
        entry.path, leader.kind, leader.mode, leader.uid, leader.gid, leader.size, target=leader.target,
        rdev=leader.rdev, xattrs=leader.xattrs, first=entry.first,
    )  # fmt: skip


def _content_faults(entry: Entry, sizes: dict[str, int]) -> Iterator[str]:
    if entry.kind != "f":
        if entry.sha256 or entry.size:
            yield "has a content, and is no regular file"
        return
    if not is_digest(entry.sha256):
        yield "has no digest of its content"
    elif not 0 <= entry.size <= LARGEST:
        yield f"has {entry.size} bytes, and a file can have {LARGEST}"
    elif sizes.setdefault(entry.sha256, entry.size) != entry.size or (
        not entry.size and entry.sha256 != _EMPTY
    ):
        yield f"has {entry.size} bytes, which is not the size of its content"


# -- file systems that take different names for the same ---------------------------------------------------


def folding(*, cases: bool, forms: bool) -> Fold | None:
    """Return how a file system compares names; None for one that compares their bytes.

    cases: upper and lower case are the same for it; forms: so are the forms of Unicode.
    """
    if not cases and not forms:
        return None

    def fold(name: str) -> str:
        text = unicodedata.normalize("NFD", name) if forms else name
        text = text.casefold() if cases else text
        return unicodedata.normalize("NFD", text) if forms else text

    return fold


def _collisions(entries: Iterable[bytes], fold: Fold) -> Iterator[Fault]:
    seen: dict[str, bytes] = {}
    for path in sorted(entries):
        other = seen.setdefault(fold(os.fsdecode(path)), path)
        if other != path:
            yield _fault(path, f"is the same name as {shown_path(other)} for the file system that it is for")
