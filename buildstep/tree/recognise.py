"""Recognise what of a directory is as it was, although it is another checkout: other inodes, other times.

Each path is compared with what is known of the same path: kind, mode, owner, links, attributes, and content,
which is read, or known by the blob that git's index has of it (`git_index`). Several processes share the
work, which for a large tree is nearly all of what a build of an equal tree does.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from buildstep.system import workers
from buildstep.system.files import CHUNK
from buildstep.tree import git_index, scan, stat_lines
from buildstep.tree.entry import Xattrs
from buildstep.tree.git_index import GitIndex
from buildstep.tree.stat_index import GRAIN_NS, UNTRUSTED, Row, inode_of, is_linked, known_entry

_FEW = 400
"""Paths for which no process is started."""
_DEALT = 512
"""Paths that a process gets at a time: they are near each other on the disk."""
_LARGE = 8 << 20
"""Bytes from which on a file is dealt by its size."""
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

_SAME, _LEARNT, _YOUNG = 1, 2, 4
"""Marks of a path: all but its time is as known; its blob is known now; it changed too late to be trusted."""


@dataclass(slots=True)
class Recognised:
    """What was found. same: the rows of paths that are as they were, but for inode and times; digests: the
    content of other files, where it is known now; files, bytes: what was read; by_git: how many files git's
    index vouched for."""

    same: dict[bytes, Row] = field(default_factory=dict)
    digests: dict[bytes, str] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0
    by_git: int = 0

    def add(self, other: Recognised) -> None:
        """Take in what was found besides."""
        self.same |= other.same
        self.digests |= other.digests
        self.files += other.files
        self.bytes += other.bytes
        self.by_git += other.by_git


def as_known(now: Mapping[bytes, Row], known: Mapping[bytes, Row]) -> Recognised:
    """Compare what is known of a directory with what is known of another checkout; nothing is read.

    now: rows of this one that hold. Those that are the same get the time that the other has in images.
    """
    found = Recognised()
    for path, row in now.items():
        old = known.get(path)
        alike = old is not None and row[1:6] == old[1:6] and row[8:12] == old[8:12]
        if old is not None and alike and (row[2] != "f" or row[6] == old[6]):
            found.same[path] = (*row[:12], old[12], old[13] or row[13])
        elif row[2] == "f":
            found.digests[path] = row[8]
    others = {path: inode_of(row) for path, row in now.items() if is_linked(row) and path not in found.same}
    _drop_other_groups(known, found.same, others)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """top: the directory; lines: what lstat says of the paths to look at; known: rows by path; git: see
    `git_index`; limit: the ctime (ns) from which on a path is not to be trusted later; blobs: digest and size
    by blob, once they are asked for."""

    top: bytes
    lines: Sequence[bytes]
    known: Mapping[bytes, Row]
    git: GitIndex | None
    limit: int
    blobs: list[Mapping[bytes, tuple[str, int]]] = field(default_factory=list)

    def content_of(self, blob: bytes, old: Row | None) -> tuple[str, int]:
        """Return digest and size of a blob; empty, and -1, where they are not known. old: what is known of
        the path."""
        if old is not None and old[13] == blob:
            return old[8], old[6]
        if not self.blobs:
            self.blobs.append({row[13]: (row[8], row[6]) for row in self.known.values() if row[13]})
        return self.blobs[0].get(blob, ("", -1))


@dataclass(slots=True)
class _Found:
    """What a process found. marks and mtimes: of each line; see `Recognised` for the rest."""

    marks: bytearray
    mtimes: list[int]
    digests: dict[bytes, str] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0
    by_git: int = 0


def recognise(
    top: bytes, lines: Sequence[bytes], known: Mapping[bytes, Row], *, git: GitIndex | None, started: int
) -> Recognised:
    """Compare paths with what is known of them. lines: what lstat says of them (`stat_lines`); started: when
    the walk began, in ns. Reads files; what cannot be read is left out."""
    if not known:
        return Recognised()
    job = _Job(top=top, lines=lines, known=known, git=git, limit=started - GRAIN_NS)
    found = Recognised()
    count = workers.count() if len(lines) > _FEW or _much(lines) else 1
    shares = _shares(lines, count)
    if len(shares) == 1:
        _take(job, shares[0], _look(job, shares[0]), found)
    else:

        def work(number: int, send: workers.Send) -> None:
            send((number, _look(job, shares[number])))

        with workers.running(range(len(shares)), work) as values:
            for number, part in values:
                _take(job, shares[number], part, found)
    if any(map(is_linked, found.same.values())):
        seen = {stat_lines.path_of(line): line for line in lines}
        others = {
            path: int(line.partition(b" ")[0])
            for path, line in seen.items()
            if path not in found.same and stat_lines.parse(line).linked
        }
        _drop_other_groups(known, found.same, others)
    return found


def _much(lines: Sequence[bytes]) -> bool:
    return any(_size(line) > _LARGE for line in lines)


def _size(line: bytes) -> int:
    return int(line.split(b" ", 2)[1])


def _shares(lines: Sequence[bytes], count: int) -> list[list[int]]:
    """Deal the numbers of lines to so many processes."""
    if count < 2:
        return [list(range(len(lines)))]
    shares: list[list[int]] = [[] for _ in range(count)]
    large = {number: size for number, line in enumerate(lines) if (size := _size(line)) > _LARGE}
    loads = [0] * count
    for number in sorted(large, key=lambda number: -large[number]):
        least = loads.index(min(loads))
        loads[least] += large[number]
        shares[least].append(number)
    rest = [number for number in range(len(lines)) if number not in large] if large else range(len(lines))
    for turn, begin in enumerate(range(0, len(rest), _DEALT)):
        shares[turn % count].extend(rest[begin : begin + _DEALT])
    return [share for share in shares if share]


def _take(job: _Job, share: Sequence[int], part: _Found, found: Recognised) -> None:
    """Add what a process found."""
    lines, known, git = job.lines, job.known, job.git
    for number, mark, mtime in zip(share, part.marks, part.mtimes, strict=True):
        if mark:
            line = lines[number]
            path = line.partition(b"\t")[2]
            old = known[path]
            blob = old[13]
            if mark & _LEARNT and not blob and git is not None:
                blob = git.blob_at(path)
            if mark & _YOUNG:
                line = UNTRUSTED + line
            found.same[path] = (line, *old[1:7], mtime, *old[8:13], blob)
    found.digests |= part.digests
    found.files += part.files
    found.bytes += part.bytes
    found.by_git += part.by_git


def _drop_other_groups(
    known: Mapping[bytes, Row], same: dict[bytes, Row], others: Mapping[bytes, int]
) -> None:
    """Take out the names of files that have other names now than they had. others: inodes of the paths with
    several names that are not as they were."""
    linked = [path for path, row in same.items() if is_linked(row)]
    if not linked:
        return
    before = _groups({path: row for path, row in known.items() if is_linked(row)})
    now, changed = _groups({path: same[path] for path in linked}), set(others.values())
    for path in linked:
        if now[path] != before.get(path) or inode_of(same[path]) in changed:
            del same[path]


def _groups(rows: Mapping[bytes, Row]) -> dict[bytes, frozenset[bytes]]:
    """Return for each path those that share its inode."""
    members: dict[int, list[bytes]] = {}
    for path, row in rows.items():
        members.setdefault(inode_of(row), []).append(path)
    found: dict[bytes, frozenset[bytes]] = {}
    for paths in members.values():
        group = frozenset(paths)
        found |= dict.fromkeys(paths, group)
    return found


# -- in each process ---------------------------------------------------------------------------------------


def _look(job: _Job, share: Sequence[int]) -> _Found:
    """Look at a share of the lines."""
    found = _Found(bytearray(len(share)), [0] * len(share))
    top, known, lines, git = job.top + b"/", job.known, job.lines, job.git
    tails: dict[bytes, tuple[bool, str, int, int, int]] = {}
    for place, number in enumerate(share):
        line = lines[number]
        meta, _, path = line.partition(b"\t")
        old = known.get(path)
        inode, size, mtime, ctime, tail = meta.split(b" ", 4)
        said = tails.get(tail)  # only few are different
        if said is None:
            mode, uid, gid, links, letter = tail.split(b" ")
            linked = links != b"1" and letter != b"d"
            said = tails[tail] = (linked, letter.decode(), int(mode, 8), int(uid), int(gid))
        found.mtimes[place] = time = stat_lines.nanoseconds(mtime)
        kind = said[1]
        # The mode of a link says nothing.
        same = old is not None and (
            said == old[1:6] or (kind == "l" and said[:2] == old[1:3] and said[3:] == old[4:6])
        )
        changed = stat_lines.nanoseconds(ctime)
        if kind == "f":
            blob = b""
            if git is not None:
                blob = git.blob(path, (changed, time, int(inode), *said[2:], int(size)))
            mark = _mark(job, found, path, old if same else None, int(size), blob)
        else:
            mark = _SAME if same and old is not None and _is_same(top + path, old) else 0
        found.marks[place] = mark | _YOUNG if mark and changed >= job.limit else mark
    return found


def _is_same(full: bytes, old: Row) -> bool:
    """Whether something that is no file is as it was."""
    known = known_entry(old)
    try:
        if known.kind == "l" and os.readlink(full) != known.target:
            return False
        if known.kind in "cb":
            rdev = os.lstat(full).st_rdev
            if (os.major(rdev), os.minor(rdev)) != known.rdev:
                return False
        return _xattrs_are(full, known.xattrs)
    except OSError:
        return False


def _xattrs_are(full: bytes, before: Xattrs) -> bool:
    return scan.read_xattrs(full) == before


def _mark(job: _Job, found: _Found, path: bytes, old: Row | None, size: int, blob: bytes) -> int:
    """Compare a file with what is known of it, and note what its content is. old: what is known, None if it
    is another file anyway; blob: what git's index says that it is."""
    full = job.top + b"/" + path
    if blob:
        digest, length = job.content_of(blob, old)
        if length == size:
            found.by_git += 1
            if old is None or old[8] != digest or old[6] != size:
                found.digests[path] = digest
                return 0
            try:
                same = _xattrs_are(full, old[11])
            except OSError:
                same = False
            return (_SAME | _LEARNT) if same else 0
    if old is None or old[6] != size:
        return 0
    try:
        digest, is_blob, attributes = _read(full, size, blob, found)
        same = digest == old[8] and ((not attributes and not old[11]) or _xattrs_are(full, old[11]))
    except OSError:
        return 0
    if not same:
        found.digests[path] = digest
        return 0
    return _SAME | _LEARNT if is_blob else _SAME


def _read(full: bytes, size: int, blob: bytes, found: _Found) -> tuple[str, bool, bool]:
    """Return the digest of a file's content, whether it is that blob, and whether the file has attributes.
    Raises OSError."""
    fd = os.open(full, _FLAGS)
    try:
        content = os.read(fd, size + 1) if size <= CHUNK else b""
        state, name = hashlib.sha256(content), git_index.naming(size, len(blob)) if blob else None
        found.bytes += len(content)
        if name is not None:
            name.update(content)
        if size > CHUNK or len(content) != size:
            while chunk := os.read(fd, CHUNK):
                state.update(chunk)
                found.bytes += len(chunk)
                if name is not None:
                    name.update(chunk)
        found.files += 1
        is_blob = name is not None and name.digest() == blob and not content.startswith(git_index.LFS_POINTER)
        return state.hexdigest(), is_blob, _has_xattrs(fd)
    finally:
        os.close(fd)


def _has_xattrs(fd: int) -> bool:
    """Whether a file has attributes, of an image or not; where a file system has none, it has not."""
    try:
        return bool(os.listxattr(fd))
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM):
            return False
        raise
