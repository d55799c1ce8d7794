"""Which commit of git a directory is checked out from, read without git: no process is started for it."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass

from buildstep.tree.git_index import common_folder, git_folder, upwards

_COMMIT = re.compile(rb"[0-9a-f]{40}([0-9a-f]{24})?")
_LONGEST = 64 << 20
"""Bytes of a file of references that is read."""


@dataclass(frozen=True, slots=True)
class GitHead:
    """A checkout. commit: in hex; top: its work tree; inner: the directory in it, empty for the whole."""

    commit: str
    top: str
    inner: str


def find(directory: str) -> GitHead | None:
    """Return of which commit a directory's work tree is, by its HEAD (gitrepository-layout(5)).

    None where it is in no work tree, where there is no commit yet, and where references are kept in another
    form than files. What was changed since the commit was checked out is not looked at.
    """
    place = os.path.realpath(os.fsencode(directory))
    for above in upwards(place):
        git = os.path.join(above, b".git")
        if not os.path.lexists(git):
            continue
        with contextlib.suppress(OSError):
            commit = _commit(git)
            if commit:
                inner = place[len(above) :].strip(b"/")
                return GitHead(commit.decode(), os.fsdecode(above), os.fsdecode(inner))
        return None
    return None


def _commit(git: bytes) -> bytes:
    folder = git_folder(git)
    if folder is None:
        return b""
    head = _read(os.path.join(folder, b"HEAD")).strip()
    if not head.startswith(b"ref: "):
        return head if _COMMIT.fullmatch(head) else b""
    name, common = head.removeprefix(b"ref: "), common_folder(folder)
    if b".." in name or name.startswith(b"/"):
        return b""
    for place in (folder, common):
        with contextlib.suppress(OSError):
            found = _read(os.path.join(place, name)).strip()
            if _COMMIT.fullmatch(found):
                return found
    with contextlib.suppress(OSError):
        for line in _read(os.path.join(common, b"packed-refs")).splitlines():
            commit, _, ref = line.partition(b" ")
            if ref == name and _COMMIT.fullmatch(commit):
                return commit
    return b""


def _read(path: bytes) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(_LONGEST)
