"""Whether the files of a directory are those of the commit that is checked out, told without git.

Git's index has all files of the commit where the tree that it was written for is the commit's; and a file of
which lstat says what the index says is as it was checked out (`git_index`, by the same rules). What else
there may be is for git to say: whether a file without an entry is ignored, whether a filter changes one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

from buildstep.tree import git_head, git_index, stat_lines
from buildstep.tree.git_index import GitEntry, GitIndex
from buildstep.tree.proto import ProtoDir
from buildstep.tree.stat_index import UNTRUSTED
from buildstep.tree.stat_lines import Seen

_FEW, _SMALL = 64, 1 << 20
"""Files, and their bytes, that are compared by content: what was written in the same tick as the index."""

_LARGEST = 64 << 20
_COMMIT = 1
_TREE = re.compile(rb"tree ([0-9a-f]{40}|[0-9a-f]{64})\n")
_ROOT = re.compile(rb"\0(\d+) \d+\n")
"""What the part TREE of an index begins with, where all of its entries are those of one tree."""


def differs(proto: ProtoDir) -> bool | None:
    """Tell whether files of a directory are not those of the commit, or are in none; None where only git can
    tell. proto: as it was walked."""
    with contextlib.suppress(OSError, ValueError, struct.error, IndexError, zlib.error):
        return _differs(proto)
    return None


def _differs(proto: ProtoDir) -> bool | None:
    head = git_head.find(os.fsdecode(proto.top))
    if head is None or proto.excludes:
        return None
    others: dict[bytes, GitEntry] = {}
    parts: dict[bytes, bytes] = {}
    attributes = [path for path in proto.paths if path.endswith(b".gitattributes")]
    index = git_index.find(proto.top, attributes, git_index.Rest(others, parts))
    if index is None or not index.plain or index.why_not:
        return None
    links = {path: row for path, row in others.items() if row and row[6] >> 12 == 0o12}
    if len(links) != len(others) or _tree_of_index(parts, len(head.commit) // 2) != _tree_of(head):
        return None
    return _compared(proto, index, replace(index, entries=links), inner=bool(head.inner))


def _compared(proto: ProtoDir, files: GitIndex, links: GitIndex, *, inner: bool) -> bool | None:
    """Compare all paths. links: the entries of symbolic links."""
    there, doubt, unknown = 0, list[tuple[bytes, Seen]](), False
    for path, seen in _seen(proto):
        if seen.kind == "d" or (not inner and (path == b".git" or path.startswith(b".git/"))):
            continue
        index, mode = (links, 0) if seen.kind == "l" else (files, seen.mode)
        found = index.entries.get(path)
        if found is None or (seen.kind == "f" and bool(found[6] & 0o100) != bool(mode & 0o100)):
            unknown = True
            continue
        there += 1
        said = (seen.ctime, seen.mtime, seen.inode, mode, seen.uid, seen.gid, seen.size)
        if not index.blob(path, said):
            doubt.append((path, seen))
    if there < len(files.entries) + len(links.entries) and not unknown:
        return True  # some are gone
    if len(doubt) > _FEW or sum(seen.size for _, seen in doubt) > _SMALL:
        return None
    for path, seen in doubt:
        blob = (links if seen.kind == "l" else files).blob_at(path)
        if git_index.blob_name(_content(proto.top + b"/" + path, seen), len(blob)) != blob:
            return True
    return None if unknown else False


def _seen(proto: ProtoDir) -> Iterator[tuple[bytes, Seen]]:
    yield from ((path, stat_lines.parse(row[0].removeprefix(UNTRUSTED))) for path, row in proto.valid.items())
    yield from proto.fresh.items()


def _content(full: bytes, seen: Seen) -> bytes:
    if seen.kind == "l":
        return os.readlink(full)
    with open(full, "rb") as stream:
        return stream.read(_SMALL + 1)


# -- trees -------------------------------------------------------------------------------------------------


def _tree_of_index(parts: Mapping[bytes, bytes], length: int) -> str:
    """Return the tree that all entries of an index are (gitformat-index(5), cache tree); "-" for none."""
    data = parts.get(b"TREE", b"")
    found = _ROOT.match(data)
    return data[found.end() : found.end() + length].hex() if found else "-"


def _tree_of(head: git_head.GitHead) -> str:
    """Return the tree of a commit; empty where its object is not found, or may be replaced by another one."""
    folder = git_index.git_folder(os.path.join(os.fsencode(head.top), b".git"))
    if folder is None:
        return ""
    common = git_index.common_folder(folder)
    objects, name = os.path.join(common, b"objects"), bytes.fromhex(head.commit)
    if os.path.lexists(os.path.join(common, b"refs/replace")) or b"refs/replace/" in _read(
        os.path.join(common, b"packed-refs")
    ):
        return ""
    loose = _read(os.path.join(objects, head.commit[:2].encode(), head.commit[2:].encode()))
    data = zlib.decompress(loose) if loose else _packed(os.path.join(objects, b"pack"), name)
    state = hashlib.sha1(data, usedforsecurity=False) if len(name) == 20 else hashlib.sha256(data)
    found = _TREE.match(data.partition(b"\0")[2])
    return found[1].decode() if found and state.digest() == name else ""


def _packed(folder: bytes, name: bytes) -> bytes:
    """Return a commit of a pack with its header; empty where none has it whole (gitformat-pack(5))."""
    for index in sorted(os.listdir(folder)):
        if not index.endswith(b".idx"):
            continue
        path = os.path.join(folder, index)
        at = _offset(_read(path), name)
        if at < 0:
            continue
        with open(path[:-4] + b".pack", "rb") as stream:
            stream.seek(at)
            data = stream.read(1 << 20)
        first = data[0]
        begin = 1
        while data[begin - 1] & 0x80:
            begin += 1
        if first >> 4 & 7 == _COMMIT:
            content = zlib.decompressobj().decompress(data[begin:], 1 << 20)
            return b"commit %d\0" % len(content) + content
    return b""


def _offset(data: bytes, name: bytes) -> int:
    """Return where an object is in the pack of an index of version 2; -1 where it is not."""
    if data[:8] != b"\xfftOc\0\0\0\2":
        return -1
    length = len(name)
    low = struct.unpack_from(">I", data, 8 + 4 * (name[0] - 1))[0] if name[0] else 0
    high = struct.unpack_from(">I", data, 8 + 4 * name[0])[0]
    count = struct.unpack_from(">I", data, 8 + 4 * 255)[0]
    names = 8 + 1024
    while low < high:
        middle = (low + high) // 2
        there = data[names + middle * length : names + (middle + 1) * length]
        if there == name:
            at = int(struct.unpack_from(">I", data, names + count * (length + 4) + 4 * middle)[0])
            return at if at < 1 << 31 else -1
        low, high = (middle + 1, high) if there < name else (low, middle)
    return -1


def _read(path: bytes) -> bytes:
    """Return a file of git; empty where there is none, or too large a one."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), open(path, "rb") as stream:
        data = stream.read(_LARGEST + 1)
        return data if len(data) <= _LARGEST else b""
    return b""
