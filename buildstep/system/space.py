"""Full and failing disks: how they show, where they are, and what to say about them.

Whoever meets such a failure lets it pass: as an OSError, or wrapped in an error of its own (`raise ...
from`). `explain` finds it in the chain and makes a DiskError of it, which names the file system with what is
free and what is needed. Programs only print words: `of_tool` knows them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import resource
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from buildstep.errors import BuildstepError, CommandFailed, DiskError
from buildstep.system.text import printable, size_text

# -- file systems ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """What a file system has left. inodes: None where it has no fixed number of them; read_only: whether it
    is mounted so."""

    folder: Path
    free: int
    inodes: int | None
    total: int = 0
    read_only: bool = False

    @classmethod
    def at(cls, path: Path) -> Room:
        """Return the room where `path` is, or will be. Raises OSError."""
        folder = existing(path)
        info = os.statvfs(folder)
        return cls(
            folder=folder,
            free=info.f_bavail * info.f_frsize,
            inodes=info.f_favail if info.f_files else None,
            total=info.f_blocks * info.f_frsize,
            read_only=bool(info.f_flag & os.ST_RDONLY),
        )

    @property
    def full(self) -> bool:
        """Whether hardly anything can be written any more."""
        return self.free < _NEXT_TO_NOTHING or self.inodes == 0

    def __str__(self) -> str:
        inodes = "" if self.inodes is None else f", {self.inodes} inodes"
        return f"{size_text(self.free)}{inodes} free of {size_text(self.total)}"


_NEXT_TO_NOTHING = 64 << 10


def existing(path: Path) -> Path:
    """Return the path itself if it is there, else the nearest directory above it that is."""
    while not path.exists() and path.parent != path:
        path = path.parent
    return path


_PACKING = (0x9123683E, 0x2FC12FC1, 0x58465342, 0xCA451A4E)  # statfs(2): btrfs, zfs, xfs, bcachefs


def packs(folder: Path) -> bool:
    """Return whether a copy may take less here than what it is one of: by shared blocks or compression."""
    if not sys.platform.startswith("linux"):
        return True
    buffer = (ctypes.c_long * 64)()
    done = ctypes.CDLL(None).statfs(os.fsencode(folder), buffer)
    return bool(done != 0 or buffer[0] in _PACKING)


class Need(NamedTuple):
    """About what a job needs in one of its places, in all: bytes and inodes."""

    size: int
    inodes: int = 0


class Place(NamedTuple):
    """A directory that a job works in, as it was when something failed. role: what it is for."""

    role: str
    room: Room
    device: int


_HINTS = {
    "pool": "`buildstep cache prune` and `buildstep image gc` make room there; or name a larger disk with "
    "--pool or BUILDSTEP_POOL",
    "output directory": "make room there, or write to another disk with --output-dir",
    "exported file": "make room there, or name a file on another disk",
    "temporary directory": "make room there, or name another directory in TMPDIR",
}
"""What to do about a full disk, by what lies on it."""

_watched: dict[str, Path] = {}


def watch(**places: Path) -> None:
    """Look at these places when something fails: pool, output_directory, temporary_directory.

    They are the process's, as its standard streams are: what fails may be in any thread, or a tool.
    """
    _watched.update({role.replace("_", " "): path for role, path in places.items()})


def _places() -> tuple[Place, ...]:
    found = []
    for role, path in _watched.items():
        with contextlib.suppress(OSError):
            room = Room.at(path)
            found.append(Place(role, room, room.folder.stat().st_dev))
    return tuple(found)


# -- how it shows ------------------------------------------------------------------------------------------


class DiskFailure(OSError):
    """An OSError of a disk that knows what was free when it came up."""

    def __init__(self, number: int, path: str | None, places: tuple[Place, ...]) -> None:
        super().__init__(number, os.strerror(number), path)
        self.places = places


NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""The errors of a disk: full, over its quota, a file too large, read-only, failing."""


def located(error: OSError, path: Path | str | int) -> OSError:
    """Return the error with the path it is about, and what is free now, if it is one of a disk.

    path: or a file descriptor. For who is about to remove the file, or only has its descriptor.
    """
    if error.errno not in NUMBERS or isinstance(error, DiskFailure):
        return error
    if isinstance(path, int):
        try:
            path = os.readlink(f"/proc/self/fd/{path}")
        except OSError:
            return error
    return DiskFailure(error.errno, os.fspath(path), _places())


@contextlib.contextmanager
def locating(path: Path | str | int) -> Iterator[None]:
    """Let the failure of a disk in the block be `located`."""
    try:
        yield
    except OSError as error:
        if (failure := located(error, path)) is not error:
            raise failure from error
        raise


_WORDS: Sequence[tuple[int, str]] = (
    (errno.ENOSPC, r"No space left on device"),  # strerror: dpkg, rsync, tar, cp, btrfs, mkfs, qemu-img ...
    (errno.ENOSPC, r"You don't have enough free space in \S+"),  # apt, before it downloads
    (errno.ENOSPC, r"You do not have enough free space in \S+"),
    (errno.ENOSPC, r"(?i)not enough (?:free |disk )?space"),  # mkfs, pkgin
    (errno.ENOSPC, r"\bout of space\b"),  # zfs, lvm
    (errno.ENOSPC, r"filesystem (?:is )?full|file system is full"),  # illumos, pkg_add
    (errno.ENOSPC, r"Wrote only \d+ of \d+ bytes"),  # tar
    (errno.EDQUOT, r"Disk quota exceeded|Disc quota exceeded|quota exceeded"),  # strerror, illumos, zfs
    (errno.EFBIG, r"File too large"),
    (errno.EROFS, r"Read-only file system"),
    (errno.EIO, r"Input/output error"),
)
"""What tools print when the disk fails them."""

_OTHER_LIMITS = re.compile(r"\b(unshare|clone|setns|namespace|inotify|keyctl)\b", re.IGNORECASE)
"""In a line with one of these, the words are those of the same error number, but of another limit."""

_HOST_TOOLS = frozenset(("rsync", "cp", "tar", "btrfs", "zfs", "mmdebstrap"))
"""Tools that are no image's: of theirs, what may mean something else as well is taken at its word."""

_SIGBUS = (-7, 128 + 7)
"""How a process ends that writes to a file in its memory (apt's cache) on a full disk."""


def words_of(text: str) -> int:
    """Return the error number that a tool's output tells in words; 0 for none."""
    for number, pattern in _WORDS:
        for found in re.finditer(pattern, text):
            begin = text.rfind("\n", 0, found.start()) + 1
            end = text.find("\n", found.end())
            if not _OTHER_LIMITS.search(text[begin : end if end >= 0 else len(text)]):
                return number
    return 0


def of_tool(tool: str, status: int, output: str) -> DiskFailure | None:
    """Return the failure of a disk that ended a tool, None if it was something else.

    It is told by the tool's words, or shows in a place that is full now.
    """
    number, places = words_of(output), _places()
    if number in (errno.EROFS, errno.EIO, errno.EFBIG) and os.path.basename(tool) not in _HOST_TOOLS:
        # A script in an image says the same of /proc/sys, of a terminal that it does not have, or of the size
        # that its files may have.
        known = number == errno.EIO and f"({number}: " in output
        if not known and not any(place.room.read_only for place in places):
            number = 0
    if (
        not number
        and status
        and (status in _SIGBUS or status > 0)
        and any(place.room.full for place in places)
    ):
        number = errno.ENOSPC
    return DiskFailure(number, None, places) if number else None


def caused(error: CommandFailed, output: str) -> CommandFailed:
    """Return the error of a tool, with the failure of a disk as its cause where that is so.

    To be called at once: whoever clears up after the tool makes room again.
    """
    error.__cause__ = of_tool(error.argv[0], error.status, output)
    return error


def check(path: Path, size: int, *, what: str, inodes: int = 0) -> None:
    """Raise DiskError where a file system certainly has no room for something that is about to be written.

    path: where it will be; size, inodes: what it certainly takes; what: the act that is not begun.
    """
    room = Room.at(path)
    if size <= room.free and (room.inodes is None or inodes <= room.inodes):
        return
    failure = DiskFailure(errno.ENOSPC, os.fspath(path), _places())
    error = BuildstepError(what)
    error.__cause__ = failure
    told = explain(error, Need(size, inodes))
    assert told is not None
    raise told


# -- what to say about it ----------------------------------------------------------------------------------


def cause_of(error: BaseException) -> OSError | None:
    """Return the failure of a disk that led to this error; None if it was something else."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, OSError) and at.errno in NUMBERS:
            return at
        at = at.__cause__ or at.__context__
    return None


def explain(error: BaseException, needs: Mapping[str, Need] | Need | None = None) -> DiskError | None:
    """Return the DiskError for an error that a disk led to; None if it was something else.

    needs: what the job needs, by role (see `watch`), or where it failed. One that is one already is returned.
    """
    if isinstance(error, DiskError):
        return error
    if not isinstance(error, BuildstepError | OSError):
        return None
    cause = cause_of(error)
    if cause is None:
        return None
    assert cause.errno is not None
    known = isinstance(cause, DiskFailure)
    places = cause.places if isinstance(cause, DiskFailure) else _places()
    path = os.fsdecode(cause.filename) if cause.filename else ""
    affected = _affected(path, cause.errno, places)
    said = error.message if isinstance(error, BuildstepError) else f"cannot use {path}" if path else ""
    why = os.strerror(cause.errno)
    message = ": ".join(text for text in (said, "" if why in said else why) if text)
    if affected is not None:
        need = needs if isinstance(needs, Need) or needs is None else needs.get(affected.role)
        message += f": {_state(affected, cause.errno, need, now=not known)}"
    lines = [f"file: {printable(path)}"] if path and path not in said else []
    lines += [f"{place.role} {place.room.folder}: {place.room}" for place in places]
    detail = error.detail if isinstance(error, BuildstepError) else ""
    return DiskError(
        message,
        detail="\n".join([*lines, *([detail] if detail else [])]),
        hint=_hint(cause.errno, affected),
    )


def _affected(path: str, number: int, places: Sequence[Place]) -> Place | None:
    """Return the place that a failure is about: that of the path, else the fullest or the read-only one."""
    if path and os.path.isabs(path):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.stat(path).st_mode):
                return None  # a device such as /dev/full: the room of the file system it is on says nothing
        with contextlib.suppress(OSError):
            room = Room.at(Path(path))
            device = room.folder.stat().st_dev
            mine = [place for place in places if place.device == device]
            if number == errno.EROFS:  # of one file system a part may be mounted so
                mine = [place for place in mine if place.room.read_only]
            # Where several lie on one file system: the innermost that the path is in.
            inside = [place for place in mine if Path(path).is_relative_to(place.room.folder)]
            if inside:
                return max(inside, key=lambda place: len(place.room.folder.parts))
            return mine[0] if mine else Place("", room, device)
    # Who cleared up may have made room again, but hardly more than elsewhere.
    found = min(places, key=lambda place: 0 if place.room.full else place.room.free, default=None)
    if number == errno.EROFS:
        found = next((place for place in places if place.room.read_only), None)
    return found


def _state(place: Place, number: int, need: Need | None, *, now: bool) -> str:
    """Return what is to say of a file system in a message: where it is, what is free, what is needed."""
    room = place.room
    where = f"{room.folder} ({place.role})" if place.role else os.fspath(room.folder)
    if number == errno.EROFS:
        return f"{where} is read-only"
    if number not in (errno.ENOSPC, errno.EDQUOT):
        return where
    out = room.inodes is not None and (room.inodes == 0 or (need is not None and room.inodes < need.inodes))
    if out and room.free >= _NEXT_TO_NOTHING:
        needed = f", about {need.inodes} are needed" if need is not None and need.inodes else ""
        return f"{where} has {room.inodes} inodes free{' now' * now}{needed}"
    needed = f", about {size_text(need.size)} are needed" if need is not None and need.size else ""
    return f"{where} has {size_text(room.free)} free{' now' * now}{needed}"


def _hint(number: int, place: Place | None) -> str:
    match number:
        case errno.EROFS:
            return "mount it writable; if it became read-only by itself, the kernel's log (dmesg) says why"
        case errno.EIO:
            return "the disk or the way to it fails; the kernel's log (dmesg) says more"
        case errno.EFBIG:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            if limit != resource.RLIM_INFINITY:
                return f"the limit of a file's size is {size_text(limit)} here: raise it (ulimit -f)"
            return "use a file system that holds larger files"
    advice = [_HINTS.get(place.role if place is not None else "", "make room on the disk")]
    if number == errno.EDQUOT:
        advice.insert(0, "raise the quota of this user")
    return "; ".join(advice)
