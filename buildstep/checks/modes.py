"""Who may do what with the files of an image: modes, owners, capabilities, and how much there is of them."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from buildstep.checks.interface import Found, Subject
from buildstep.system.text import size_text
from buildstep.tree.entry import Entry

_CAPABILITY = b"security.capability"
_LARGEST = 10
"""Files that are named where a tree is over its budget."""


def world_writable(subject: Subject) -> Iterator[Found]:
    """Yield files that everybody may write to, and directories without the sticky bit."""
    for path, entry in subject.files():
        if entry.kind not in "fd" or not entry.mode & stat.S_IWOTH:
            continue
        if entry.kind == "d" and entry.mode & stat.S_ISVTX:
            continue
        yield Found(path, f"can be written by everybody (mode {entry.mode:04o})")


def setuid(subject: Subject) -> Iterator[Found]:
    """Yield programs that run as their owner or group, and did not do so in the base."""
    for path, entry in subject.files():
        bits = _rights(entry)
        old = subject.base.get(entry.path)
        if entry.kind != "f" or not bits or (old is not None and old.kind == "f" and _rights(old) == bits):
            continue
        words = [
            f"setuid (runs as uid {entry.uid})" if bits & stat.S_ISUID else "",
            f"setgid (runs as gid {entry.gid})" if bits & stat.S_ISGID else "",
        ]
        yield Found(path, f"is {' and '.join(filter(None, words))}, mode {entry.mode:04o}")


def _rights(entry: Entry) -> int:
    bits = entry.mode & (stat.S_ISUID | stat.S_ISGID)
    # Without it the setgid bit means mandatory locking, which no kernel has any more (chmod(2)).
    return bits if entry.mode & stat.S_IXGRP else bits & ~stat.S_ISGID


def capability(subject: Subject) -> Iterator[Found]:
    """Yield programs that have capabilities, and did not have just these in the base."""
    for path, entry in subject.files():
        found = _capability(entry)
        old = subject.base.get(entry.path)
        if found and (old is None or _capability(old) != found):
            yield Found(path, f"has capabilities ({_CAPABILITY.decode()} {found.hex()})")


def _capability(entry: Entry) -> bytes:
    return next((value for name, value in entry.xattrs if name == _CAPABILITY), b"")


def unknown_owner(subject: Subject) -> Iterator[Found]:
    """Yield what belongs to a number that has no name in the image's own tables."""
    for what, numbers in (("uid", subject.users), ("gid", subject.groups)):
        if numbers is None:
            continue  # the image has no such table
        for path, entry in subject.files():
            number = entry.uid if what == "uid" else entry.gid
            if number not in numbers:
                yield Found(path, f"belongs to {what} {number}, which has no name in the image")


def budget(subject: Subject) -> Iterator[Found]:
    """Yield the largest files of a tree that has more bytes than it may have."""
    files = [
        (entry.size, path) for path, entry in subject.tree.walk() if entry.kind == "f" and not entry.first
    ]
    total, most = sum(size for size, _ in files), subject.budget
    if most is None or total <= most:
        return
    yield Found(b"", f"all files have {size_text(total)}, and the budget is {size_text(most)}; the largest:")
    for size, path in sorted(files, key=lambda row: (-row[0], row[1]))[:_LARGEST]:
        yield Found(path, size_text(size))
