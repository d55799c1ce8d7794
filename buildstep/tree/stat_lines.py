"""What lstat says of every path of a tree, as one line of bytes each: quick to make, and to compare.

A line is `inode size mtime ctime mode uid gid links kind<TAB>path`: times in seconds with ten decimals, the
mode in octal, kind one of f d l c b p s, and the path relative to the top, which has no line. That is what
`-printf` of GNU find can write; for a large tree find is three times as fast as we are, and several of them
share the work.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from buildstep.errors import BuildstepError
from buildstep.system import process, workers
from buildstep.tree import entry, scan

_DEEPEST = entry.LONGEST // 2 + 1
"""Levels that are looked at: a path of one more than an image can have is too long."""
_FIELDS = "%i %s %T@ %C@ %m %U %G %n %y\\t"
_STARTS = 16
"""Paths for each find to begin at, so that one large directory among them does not matter much."""
_MOST_STARTS = 4000
"""Paths, of at most 255 bytes each, that a command line has room for."""
_NO_PATH = b"-!(),"
"""What find takes for a part of an expression where an argument begins with it."""


class Seen(NamedTuple):
    """A parsed line. size in bytes, mtime and ctime in nanoseconds, mode: the permissions; line: itself."""

    inode: int
    size: int
    mtime: int
    ctime: int
    mode: int
    uid: int
    gid: int
    links: int
    kind: str
    line: bytes

    @property
    def linked(self) -> bool:
        """Whether it has other names beside this one."""
        return self.links > 1 and self.kind != "d"


def parse(line: bytes) -> Seen:
    """Return the fields of a line, all but the path."""
    inode, size, mtime, ctime, rest = line.partition(b"\t")[0].split(b" ", 4)
    return Seen(int(inode), int(size), nanoseconds(mtime), nanoseconds(ctime), *_rest(rest), line)


@functools.lru_cache(maxsize=1024)
def _rest(text: bytes) -> tuple[int, int, int, int, str]:
    """Return mode, owner, group, links and kind: of a tree only few are different."""
    mode, uid, gid, links, kind = text.split(b" ")
    return int(mode, 8), int(uid), int(gid), int(links), kind.decode()


def nanoseconds(text: bytes) -> int:
    """Return a time as a line has it, in nanoseconds."""
    if not text.startswith(b"-"):
        return int(text[:-1].replace(b".", b""))  # ten decimals
    # Before 1970 the seconds are rounded down and the decimals still count up.
    seconds, _, decimals = text.partition(b".")
    return int(seconds) * 1_000_000_000 + int(decimals[:9])


def named(lines: Iterable[bytes], name: bytes) -> list[bytes]:
    """Return the paths of all that has this name."""
    ends = (b"\t" + name, b"/" + name)
    return [path_of(line) for line in lines if line.endswith(ends)]


def without(lines: list[bytes], done: Collection[bytes]) -> list[bytes]:
    """Return the lines of other paths than these, of which each has a line."""
    if not done or len(done) == len(lines):
        return [] if done else lines
    return [line for line in lines if path_of(line) not in done]


def path_of(line: bytes) -> bytes:
    """Return the path in a line."""
    return line.partition(b"\t")[2]


@contextlib.contextmanager
def listing(top: bytes, *, large: bool, unread: dict[bytes, OSError]) -> Iterator[Callable[[], list[bytes]]]:
    """The lines of a tree, parents before what they hold, by calling what is yielded.

    large: let find do it, from now on, beside whatever happens until the call. Where find cannot do it, or
    meets a problem, we do it. unread: takes the directories that cannot be read, with why. The call raises
    OSError for what cannot be looked at.
    """
    with contextlib.ExitStack() as stack:
        children = []
        found: list[bytes] = []
        if large:
            where = os.path.realpath(top)
            try:
                found, shares = _shares(where, workers.cores())
                for share in shares:
                    out = stack.enter_context(open(os.memfd_create("listing"), "w+b"))
                    argv = ["find", *share]
                    child = process.spawn(argv, ok=range(-64, 256), stdout=out, cwd=where)
                    children.append((stack.enter_context(child), out))
            except (BuildstepError, OSError):
                children = []  # some of them are not enough

        def lines() -> list[bytes]:
            if not children or any(child.wait() != 0 for child, _ in children):
                return list(walk(top, unread))
            for _, out in children:
                out.seek(0)
                found.extend(out.read().split(b"\0")[:-1])
            return found

        yield lines


def _shares(top: bytes, count: int) -> tuple[list[bytes], list[list[str]]]:
    """Return the arguments of so many finds, and the lines of the directories above where they begin."""
    above: list[bytes] = []
    starts = _below(top, b"")
    if count > 1:
        while len(starts) < count * _STARTS and (folders := [path for path, folder in starts if folder]):
            starts = [start for start in starts if not start[1]]
            for path in folders:
                above.append(line(path, os.lstat(top + b"/" + path)))
                starts += _below(top, path + b"/")
            if len(above) > _STARTS * count:
                break
    tail = ["-maxdepth", str(_DEEPEST), "-printf"]
    if count == 1 or not starts or len(starts) > _MOST_STARTS or any(p[:1] in _NO_PATH for p, _ in starts):
        return [], [[".", "-mindepth", "1", *tail, _FIELDS + "%P\\0"]]
    paths = [os.fsdecode(path) for path, _ in starts]
    shares = [paths[number::count] for number in range(count)]
    return above, [[*share, *tail, _FIELDS + "%p\\0"] for share in shares if share]


def _below(top: bytes, folder: bytes) -> list[tuple[bytes, bool]]:
    """Return the paths in a directory, and which of them are directories. folder: ends with a slash."""
    with os.scandir(top + b"/" + folder) as entries:
        return [(folder + item.name, item.is_dir(follow_symlinks=False)) for item in entries]


class Walk(NamedTuple):
    """A walk that is done. started: when it began, in ns; lines: as of `listing`; unread: directories that
    could not be listed."""

    started: int
    lines: list[bytes]
    unread: Mapping[bytes, OSError]


@contextlib.contextmanager
def walking(top: bytes, *, large: bool, done: Walk | None = None) -> Iterator[Callable[[], Walk]]:
    """Walk a directory beside whatever happens until the call of what is yielded. large: as for `listing`;
    done: a walk to take instead. Raises as `listing`."""
    if done is not None:
        yield lambda: done
        return
    started = time.time_ns()
    unread: dict[bytes, OSError] = {}
    with listing(top, large=large, unread=unread) as lines:
        yield lambda: Walk(started, lines(), unread)


def among(lines: Iterable[bytes], unread: Mapping[bytes, OSError]) -> dict[bytes, OSError]:
    """Return the directories that could not be read and that are wanted. lines: those of what is wanted."""
    wanted = set(map(path_of, lines)) if unread else set()
    return {path: error for path, error in unread.items() if path in wanted}


def walk(top: bytes, unread: dict[bytes, OSError]) -> Iterator[bytes]:
    """Yield the lines of a tree, found without another program. unread: see `scan.walk`."""
    for path, _, info in itertools.islice(scan.walk(top, unread), 1, None):
        yield line(path, info)


def line(path: bytes, info: os.stat_result) -> bytes:
    """Return the line of one path."""
    return b"%d %d %d.%09d0 %d.%09d0 %o %d %d %d %b\t%b" % (
        info.st_ino, info.st_size, *divmod(info.st_mtime_ns, 1_000_000_000),
        *divmod(info.st_ctime_ns, 1_000_000_000), stat.S_IMODE(info.st_mode), info.st_uid,
        info.st_gid, info.st_nlink, entry.KINDS[stat.S_IFMT(info.st_mode)].encode(), path,
    )  # fmt: skip


def is_still(full: bytes, path: bytes, seen: bytes) -> bool:
    """Whether lstat says of a path what this line has."""
    try:
        return line(path, os.lstat(full)) == seen
    except OSError:
        return False


def kind(line: bytes) -> str:
    """Return the kind in a line."""
    return chr(line[line.index(b"\t") - 1])
