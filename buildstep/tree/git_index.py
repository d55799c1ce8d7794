"""What git's index says of the files of a directory: which blob each holds, without reading one.

The index (gitformat-index(5), versions 2 to 4) has of each file the blob that was checked out or added, and
all that lstat said then. While lstat says the same, the file holds what git turned into that blob. No git is
started, and no variable of it is looked at: an entry is a fact of the file, whoever wrote it down.

That is used where a blob can stand for the bytes on disk, and nowhere else:

- all times have to be the same to the nanosecond, and inode, size, mode, owner and group as well; a file that
  may have changed in the tick of the clock in which the index was written ("racy git") is not vouched for;
- entries that say nothing of the disk are passed over: assume-unchanged, skip-worktree, intent-to-add,
  conflicts, submodules; what is in a submodule has no entry in this index;
- a filter, an encoding or `$Id$` makes other bytes of a blob: where attributes name one, nothing is vouched
  for, nor where attributes that git has are not on disk. What git does to line ends only ever takes bytes
  away when it makes a blob, so that a file of the blob's size is the blob: whoever asks compares the size;
- an index of another owner than the file, one that anybody may write, that is damaged, or that has a part
  which we do not know and which git says must be known (a split index), is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from buildstep.system.files import CHUNK
from buildstep.tree import stat_lines
from buildstep.tree.stat_lines import Seen

GRAIN_NS = 20_000_000
"""No kernel clock that stamps files is coarser than this."""

_HEAD = struct.Struct(">4sII")
_SHA1 = struct.Struct(">10I20sH")
_SHA256 = struct.Struct(">10I32sH")
_LONGEST_SAID = 0xFFF
_LOW = 0xFFFFFFFF
"""Of inode and size there are 32 bits."""
_ASSUMED, _EXTENDED, _STAGE = 0x8000, 0x4000, 0x3000
_KNOWN_EXTENSIONS = {b"sdir"}
"""Of those that must be known: directories that a sparse checkout left out, entries of another mode."""


GitEntry = tuple[Any, ...]
"""An entry as it is in the file: ctime and mtime, each as seconds and nanoseconds, device, inode, mode, uid,
gid, size, blob, flags. There is one for each file of a tree: naming the fields takes as long again."""

Said = tuple[int, int, int, int, int, int, int]
"""What lstat says of a file now: ctime and mtime in nanoseconds, inode, mode, uid, gid, size."""

_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class GitIndex:
    """The index of the work tree that a directory is in.

    entries: by path in the directory; written: when the index was, in ns; owner: of the index; plain: whether
    nothing converts files, so that each is its blob; why_not: why it says nothing, empty if it does.
    """

    entries: Mapping[bytes, GitEntry] = field(default_factory=dict)
    written: int = 0
    owner: int = 0
    plain: bool = False
    why_not: str = ""

    def blob(self, path: bytes, said: Said) -> bytes:
        """Return the blob that stands for a file of which lstat says this now; empty for none."""
        found = self.entries.get(path)
        if found is None:
            return b""
        ctime, mtime, inode, mode, uid, gid, size = said
        if found[0] * _SECOND + found[1] != ctime or found[2] * _SECOND + found[3] != mtime:
            return b""
        if found[5] != inode & _LOW or found[7] != uid or found[8] != gid or found[9] != size & _LOW:
            return b""
        if bool(found[6] & 0o100) != bool(mode & 0o100) or self.owner not in (uid, 0, os.geteuid()):
            return b""
        return b"" if self._racy(max(ctime, mtime)) or self._racy(min(ctime, mtime)) else found[10]

    def alone(self, path: bytes, seen: Seen, full: bytes) -> bytes:
        """Return the blob of a file of which nobody compares the content with it; empty for none.

        full: where it is, if nothing else looks whether it is still what the walk saw.
        """
        if not self.plain or seen.kind != "f" or (full and not stat_lines.is_still(full, path, seen.line)):
            return b""
        return self.blob(path, (seen.ctime, seen.mtime, seen.inode, seen.mode, seen.uid, seen.gid, seen.size))

    def blob_at(self, path: bytes) -> bytes:
        """Return the blob that the index has at a path, whatever is there now."""
        return bytes(self.entries[path][10])

    def _racy(self, time: int) -> bool:
        """Whether something may have been written after the index under the same time."""
        if time % _SECOND == 0:  # where a file system keeps whole seconds
            return self.written // _SECOND <= time // _SECOND
        return self.written <= time + GRAIN_NS


class Rest(NamedTuple):
    """What else an index has. others: entries of the directory that stand for no file: symbolic links, and
    empty for what says nothing of the disk or is none of both; parts: its extensions, by name."""

    others: dict[bytes, GitEntry]
    parts: dict[bytes, bytes]


def blob_name(content: bytes, length: int) -> bytes:
    """Return the name of the blob of these bytes. length: of the names in this repository."""
    state = naming(len(content), length)
    state.update(content)
    return state.digest()


def naming(size: int, length: int) -> hashlib._Hash:
    """Return what gives the name of a blob, once it has all bytes. size: how many there will be."""
    head = b"blob %d\0" % size
    return hashlib.sha1(head, usedforsecurity=False) if length == 20 else hashlib.sha256(head)


# -- where it is ---------------------------------------------------------------------------------------------


def find(top: bytes, attributes: Collection[bytes] = (), rest: Rest | None = None) -> GitIndex | None:
    """Return the index of the work tree that a directory is in; None if it is in none.

    attributes: the paths in the directory of files named .gitattributes; rest: is given what else it has.
    """
    place = os.path.realpath(top)
    for above in upwards(place):
        git = os.path.join(above, b".git")
        if os.path.lexists(git):
            inner = place[len(above) :].strip(b"/")
            if inner == b".git" or inner.startswith(b".git/"):
                return None
            try:
                return _read(above, git, inner, attributes, rest)
            except (OSError, ValueError, struct.error, IndexError) as error:
                return GitIndex(why_not=f"git's index cannot be read: {error}")
    return None


def upwards(place: bytes) -> Iterator[bytes]:
    while True:
        yield place
        above = os.path.dirname(place)
        if above == place:
            return
        place = above


def _read(
    above: bytes, git: bytes, inner: bytes, attributes: Collection[bytes], rest: Rest | None
) -> GitIndex:
    folder = git_folder(git)
    if folder is None:
        return GitIndex(why_not="its .git is none")
    common = common_folder(folder)
    top = os.path.join(above, inner, b"")
    problem, plain = _refusal(above, common, inner, attributes, top)
    if problem:
        return GitIndex(why_not=problem)
    with open(os.path.join(folder, b"index"), "rb") as stream:
        info = os.fstat(stream.fileno())
        if not stat.S_ISREG(info.st_mode) or info.st_mode & 0o002:
            return GitIndex(why_not="anybody may write git's index")
        data = stream.read()
        after = os.fstat(stream.fileno())
    if (after.st_size, after.st_mtime_ns) != (len(data), info.st_mtime_ns):
        return GitIndex(why_not="git's index was being written")
    length = 32 if _object_format(common) == b"sha256" else 20
    entries, named = parse(data, inner + b"/" if inner else b"", length, rest)
    if not all(os.path.lexists(os.path.join(above, path)) for path in named):
        # Git takes what is in the index for them, as in a sparse checkout.
        return GitIndex(why_not="attributes of git are not checked out")
    return GitIndex(entries, info.st_mtime_ns, info.st_uid, plain)


def git_folder(git: bytes) -> bytes | None:
    """Return the directory of a repository: `.git` itself, or what is named in a file of that name."""
    if os.path.isdir(git):
        return git
    with open(git, "rb") as stream:
        text = stream.read(8192)
    if not text.startswith(b"gitdir: "):
        return None
    return os.path.join(os.path.dirname(git), text.removeprefix(b"gitdir: ").rstrip(b"\r\n"))


def common_folder(folder: bytes) -> bytes:
    """Return the directory with the configuration, which all work trees of a repository share."""
    with contextlib.suppress(FileNotFoundError), open(os.path.join(folder, b"commondir"), "rb") as stream:
        return os.path.join(folder, stream.read(8192).rstrip(b"\r\n"))
    return folder


# -- when a blob is not what is on disk --------------------------------------------------------------------

_CONVERTS = re.compile(
    rb"(?<![\w-])(?:filter(?!=lfs(?:\s|$))|working-tree-encoding|encoding|ident)(?![\w-])", re.MULTILINE
)
"""What of attributes makes other bytes, of the same size perhaps: a blob may have the name of another one in
its `$Id$`. Pointers of LFS are never learnt."""

_CONFIG = re.compile(rb"attributesfile|^\s*\[\s*attr[\s\]]", re.IGNORECASE | re.MULTILINE)
"""What of a configuration names attributes elsewhere."""

_INCLUDED = re.compile(rb"(?:^|\])\s*path\s*=\s*\"?([^\"\n]+?)\"?\s*$", re.IGNORECASE | re.MULTILINE)
"""Another file that a configuration includes, whatever the condition."""

_ENDS = re.compile(
    rb"(?<![\w-])(?:text|eol|crlf|ident|filter|binary|encoding)|autocrlf|^\s*eol\s*=",
    re.IGNORECASE | re.MULTILINE,
)
"""What can make other bytes of a blob at all, in attributes or a configuration."""

LFS_POINTER = b"version https://git-lfs"
"""What a file that stands for another one begins with: what is on disk may be that other one."""


def _refusal(
    above: bytes, common: bytes, inner: bytes, attributes: Collection[bytes], top: bytes
) -> tuple[str, bool]:
    """Return why no blob of this work tree can stand for bytes on disk, empty if they can; and whether every
    file is its blob, byte for byte."""
    home = os.path.expanduser(b"~")
    settings = os.fsencode(os.environ.get("XDG_CONFIG_HOME") or os.fsdecode(home) + "/.config")
    configs = list(
        _configs(
            [
                b"/etc/gitconfig", home + b"/.gitconfig", settings + b"/git/config", common + b"/config",
                common + b"/config.worktree",
            ],
            home,
        )
    )  # fmt: skip
    if any(map(_CONFIG.search, configs)):
        return "git's configuration names attributes elsewhere", False
    places = [b"/etc/gitattributes", settings + b"/git/attributes", common + b"/info/attributes"]
    folder = above
    for name in (b"", *inner.split(b"/")):
        folder = os.path.join(folder, name) if name else folder
        places.append(os.path.join(folder, b".gitattributes"))
    places += [top + path for path in attributes]
    texts = [_content(path) for path in places]
    if any(map(_CONVERTS.search, texts)):
        return "attributes of git convert its files", False
    return "", not any(map(_ENDS.search, [*configs, *texts]))


_DEEPEST = 4
"""Configurations that include one another, one in the other."""


def _configs(paths: Iterable[bytes], home: bytes, depth: int = 0) -> Iterator[bytes]:
    """Yield the texts of configurations and of those that they include."""
    for path in paths:
        text = _content(path)
        yield text
        inner = [
            found[1].replace(b"~", home, 1) if found[1][:1] == b"~" else found[1]
            for found in _INCLUDED.finditer(text)
        ]
        if inner and depth < _DEEPEST:
            yield from _configs(
                (os.path.join(os.path.dirname(path), other) for other in inner), home, depth + 1
            )


def _content(path: bytes) -> bytes:
    """Return a small file of git; empty where there is none, and what refuses all for one too large."""
    try:
        with open(path, "rb") as stream:
            text = stream.read(CHUNK)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return b""
    return text if len(text) < CHUNK else b"filter\nattributesfile"


def _object_format(common: bytes) -> bytes:
    found = re.search(
        rb"^\s*objectformat\s*=\s*\"?(\w+)", _content(common + b"/config"), re.IGNORECASE | re.MULTILINE
    )
    return found[1].lower() if found else b"sha1"


# -- the file ----------------------------------------------------------------------------------------------


def parse(
    data: bytes, prefix: bytes, length: int, rest: Rest | None = None
) -> tuple[dict[bytes, GitEntry], list[bytes]]:
    """Return the entries of an index that stand for files below a path, by their path from there, and all
    paths of files with attributes.

    prefix: empty, or ends with a slash; length: of the names of objects. Raises ValueError, struct.error or
    IndexError for what is no index.
    """
    signature, version, count = _HEAD.unpack_from(data)
    if signature != b"DIRC" or version not in (2, 3, 4):
        raise ValueError("not an index of version 2, 3 or 4")
    end = len(data) - length
    state = hashlib.sha1(usedforsecurity=False) if length == 20 else hashlib.sha256()
    state.update(memoryview(data)[:end])
    if data[end:] not in (state.digest(), bytes(length)):  # index.skipHash writes zeros
        raise ValueError("it is damaged")
    named: list[bytes] = []
    rest = rest or Rest({}, {})
    entries, offset = _entries(data, (version, count), prefix, length, named, rest.others)
    while offset < end:
        name, size = data[offset : offset + 4], int.from_bytes(data[offset + 4 : offset + 8], "big")
        # Extensions whose name does not begin with a capital letter must be understood.
        if not name[:1].isupper() and name not in _KNOWN_EXTENSIONS:
            raise ValueError(f"it has the part {name.decode('ascii', 'replace')}, as a split index does")
        rest.parts[name] = data[offset + 8 : offset + 8 + size]
        offset += 8 + size
    if offset != end:
        raise ValueError("it is cut short")
    return entries, named


def _entries(
    data: bytes,
    form: tuple[int, int],
    prefix: bytes,
    length: int,
    named: list[bytes],
    others: dict[bytes, GitEntry],
) -> tuple[dict[bytes, GitEntry], int]:
    """Return the entries, and where they end. form: the version of the index, and how many it has; named:
    gets the paths of files with attributes; others: see `Rest`."""
    packed = form[0] == 4  # a path is written as what differs from the last one
    head = _SHA1 if length == 20 else _SHA256
    unpack, fixed, skip = head.unpack_from, head.size, len(prefix)
    found: dict[bytes, GitEntry] = {}
    offset, path = _HEAD.size, b""
    for _ in range(form[1]):
        row = unpack(data, offset)
        flags = row[11]
        begin = offset + fixed
        extended = 0
        if flags & _EXTENDED:
            extended = int.from_bytes(data[begin : begin + 2], "big")
            begin += 2
        if packed:
            cut, begin = _number(data, begin)
            stop = data.index(b"\0", begin)
            path = path[: len(path) - cut] + data[begin:stop]
            offset = stop + 1
        else:
            size = flags & _LONGEST_SAID
            stop = begin + size if size < _LONGEST_SAID else data.index(b"\0", begin)
            path = data[begin:stop]
            offset += (stop - offset + 8) & ~7
        if path[-14:] == b".gitattributes":
            named.append(path)
        if not path.startswith(prefix):
            continue
        # Regular files only, of stage 0, without a bit that says that the disk is not looked at.
        silent = flags & (_ASSUMED | _STAGE) or extended
        if row[6] >> 12 != 0o10 or silent:
            others[path[skip:]] = () if silent else row
            continue
        found[path[skip:]] = row
    return found, offset


def _number(data: bytes, offset: int) -> tuple[int, int]:
    """Return a number of variable length, as packs have it for offsets (gitformat-pack(5)), and its end."""
    byte = data[offset]
    value = byte & 0x7F
    while byte & 0x80:
        offset += 1
        byte = data[offset]
        value = ((value + 1) << 7) | (byte & 0x7F)
    return value, offset + 1
