"""The package lists that apt works with: kept for each base image, checked before they are used.

    lists/KEY/TIME/lists/      the lists as `apt-get update` left them in the clean base image
    lists/KEY/TIME/parsed/     what apt made of them, half of the time of an install of one package
    lists/KEY/TIME/record      of each of these files: size, SHA-256, and what stat said when it was good
    lists/KEY/TIME/fetched     empty; its time is when the repository last said that these are its lists
    lists/KEY/TIME/archives    what the lists say of package files, as far as it was asked (`apt_archives`)

KEY is made of the base image and of its apt's settings, so that no image's apt reads what the apt of another
wrote. A directory TIME gets its name when it is complete; only the build itself writes to it, never a command
in an image. A file is hashed again before it is used if it was touched since, or written before the machine
was started last. What is damaged is removed and fetched again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildstep.errors import InstallError
from buildstep.events import Bus
from buildstep.system import sealed
from buildstep.system.files import copy_range, stamp
from buildstep.system.host import boot_id
from buildstep.system.locks import lock
from buildstep.system.private import private_dir
from buildstep.system.remove import remove_tree
from buildstep.system.root import Root

FORMAT = 1

EMPTY = ("partial", "auxfiles")
"""Directories that apt wants to write to beside its lists; they hold nothing that is kept."""

PARSED = "srcpkgcache.bin"
"""What apt made of the lists alone, without what is installed."""

_RELEASES = ("_InRelease", "_Release")
_NO_LISTS = ("lock", *EMPTY)
_BAD_IN_NAMES = '\\|{}[]<>"^~_=!@#$%&*'
"""Characters that apt writes as %xx in the name of a list."""


class ListMismatch(InstallError):
    """A list that does not have the digest its Release file names."""


# -- what a directory of lists holds ------------------------------------------------------------------------


def list_names(folder: Path) -> list[str]:
    """Return the names of the lists in a directory of apt's, sorted; none where there is no directory."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(name for name in os.listdir(folder) if name not in _NO_LISTS)
    return []


def index_digest(folder: Path) -> str:
    """Return a digest of lists: of each Release file, which has the digests of its lists, and of each list
    that belongs to none."""
    names = list_names(folder)
    state = hashlib.sha256()
    stems = _stems(names)
    for name in names:
        if name.endswith(_RELEASES) or not name.startswith(stems):
            state.update(f"{name} {_digest(folder / name)[0]}\n".encode())
    return state.hexdigest()


def same_lists(one: Path, other: Path) -> bool:
    """Return whether two directories hold the same lists, going by what their Release files say."""
    return list_names(one) == list_names(other) and index_digest(one) == index_digest(other)


def _stems(names: Sequence[str]) -> tuple[str, ...]:
    """Return how the names of those lists begin that belong to the Release files among these."""
    signed = [name for name in names if name.endswith(_RELEASES)]
    return tuple(name.removesuffix("_InRelease").removesuffix("_Release") + "_" for name in signed)


def release_digests(text: str) -> dict[str, str]:
    """Return the digests that a Release file names, by apt's name of the list in its directory.

    They are SHA-256, or SHA-512 in a repository that has only these; weaker ones are worth nothing.
    """
    for kind, length in (("SHA256", 64), ("SHA512", 128)):
        found: dict[str, str] = {}
        inside = False
        for line in text.splitlines():
            if line.startswith((" ", "\t")):
                words = line.split()
                if inside and len(words) == 3 and re.fullmatch(f"[0-9a-f]{{{length}}}", words[0]):
                    found[apt_name(words[2])] = words[0]
            else:
                inside = line.rstrip().lower() == f"{kind.lower()}:"
        if found:
            return found
    return {}


def apt_name(path: str) -> str:
    """Return how apt names the list of this path in a repository."""
    quoted = "".join(
        f"%{ord(char):02x}" if char in _BAD_IN_NAMES or not " " < char < "\x7f" else char for char in path
    )
    return quoted.replace("/", "_")


def _digest(path: Path, kind: str = "sha256") -> tuple[str, int]:
    """Return the hex digest and the size of a regular file. Raises OSError; a link is not followed."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as stream:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is not a regular file")
        return hashlib.file_digest(stream, kind).hexdigest(), os.fstat(fd).st_size


def check_against_releases(folder: Path) -> None:
    """Compare lists with the digests in their Release files. Raises ListMismatch with the first wrong one."""
    names = list_names(folder)
    for release in (name for name in names if name.endswith(_RELEASES)):
        named = release_digests((folder / release).read_text(errors="replace"))
        (stem,) = _stems([release])
        for name in names:
            wanted = named.get(name.removeprefix(stem)) if name.startswith(stem) else None
            if wanted and _digest(folder / name, "sha256" if len(wanted) == 64 else "sha512")[0] != wanted:
                raise ListMismatch(
                    f"the package list {name} is not the one that {release} names",
                    hint="the repository changed while it was read, or a proxy altered it: build again",
                )


# -- lists that are kept ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptLists:
    """Lists that may be shown, read-only, to apt in a sandbox. folder: see this module's beginning."""

    folder: Path

    @property
    def lists(self) -> Path:
        return self.folder / "lists"

    @property
    def parsed(self) -> Path:
        return self.folder / "parsed"

    @property
    def has_parsed(self) -> bool:
        """Whether there is what apt made of them."""
        return (self.parsed / PARSED).exists()

    @property
    def fetched(self) -> float:
        """When the repository last said that these are its lists, in seconds since 1970."""
        return (self.folder / "fetched").stat().st_mtime

    def touch(self) -> None:
        """Note that the repository has just said so."""
        (self.folder / "fetched").touch()

    @property
    def usable(self) -> bool:
        """Whether packages can be found by them."""
        return any(name.endswith("Packages") for name in list_names(self.lists))


class ListStore:
    """The lists that a package cache keeps for one base image and its apt's settings."""

    def __init__(self, cache: Path, key: str, bus: Bus) -> None:
        self.folder = cache / "lists" / key
        self._bus = bus

    def find(self) -> KeptLists | None:
        """Return the lists fetched last that are whole; what is damaged is removed, with a note."""
        for folder in generations(self.folder):
            problem = damage(folder, count=self._count)
            if not problem:
                os.utime(folder / "record")  # for those who remove what was not used for longest
                return KeptLists(folder=folder)
            self._bus.note(
                f"the kept package lists are damaged ({problem}); they are fetched again", level="warning"
            )
            remove_tree(folder)
        return None

    def _count(self, size: int) -> None:
        self._bus.count("list_bytes_hashed", size)

    def keep(self, private: Path, root: Root) -> KeptLists:
        """Take over the lists that `apt-get update` wrote to a private directory. Raises ListMismatch.

        root: the image's; a repository of file: has its lists in it, and apt makes links to them.
        """
        making = private.with_name("making")
        remove_tree(making)
        for name in ("parsed", *(f"lists/{name}" for name in EMPTY)):
            (making / name).mkdir(parents=True)
        for name in list_names(private):
            _take(private / name, making / "lists" / name, root)
        check_against_releases(making / "lists")
        (making / "fetched").touch()
        _write_record(making, {name: _seen(making / name, self._count) for name in _file_names(making)})
        private_dir(self.folder)
        final = self.folder / f"{time.time_ns():020}"
        making.rename(final)
        return KeptLists(folder=final)

    def keep_parsed(self, kept: KeptLists, private: Path) -> None:
        """Take over what apt made of kept lists, right after it did so in the clean base image."""
        if kept.has_parsed or not (private / PARSED).exists():
            return
        with lock(self.folder / "lock"):
            known = _read_record(kept.folder)
            _move(private / PARSED, kept.parsed / PARSED)
            known[f"parsed/{PARSED}"] = _seen(kept.parsed / PARSED, self._count)
            _write_record(kept.folder, known)


def generations(folder: Path) -> list[Path]:
    """Return the directories of kept lists of one key, the last first."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return [folder / name for name in sorted(os.listdir(folder), reverse=True) if name.isdigit()]
    return []


def copy_lists(kept: KeptLists, into: Path) -> None:
    """Copy lists into a private directory, so that apt fetches what changed only."""
    for name in list_names(kept.lists):
        source, target = kept.lists / name, into / name
        with source.open("rb") as here, target.open("xb") as there:
            copy_range(here.fileno(), there.fileno(), os.fstat(here.fileno()).st_size)
        info = source.stat()
        os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def damage(
    folder: Path,
    *,
    whole: bool = False,
    heal: bool = True,
    count: Callable[[int], None] = lambda _size: None,
) -> str:
    """Return what is wrong with kept lists, empty for nothing.

    whole: read all of it; else only what was touched since it was last known to be good. heal: note that what
    was touched is good, and remove what apt made of the lists if no record tells of it.
    """
    try:
        known = _read_record(folder)
        (folder / "fetched").stat()
    except (OSError, ValueError) as error:
        return f"their record cannot be read: {error}"
    names = _file_names(folder)
    for name in [name for name in names if name not in known and name.startswith("parsed/")]:
        # A build was killed, or is at work, between its move to here and the record of it.
        names.remove(name)
        if heal:
            (folder / name).unlink(missing_ok=True)
    if names != sorted(known):
        odd = min(set(names) ^ set(known))
        return f"{odd} is missing" if odd in known else f"{odd} does not belong to them"
    boot, changed = boot_id(), False
    for name, (size, digest, *seen) in known.items():
        path = folder / name
        now = [*stamp(path)[1:], boot]
        if now == seen and not whole:
            continue
        try:
            real, length = _digest(path)
        except OSError as error:
            return f"{name} cannot be read: {error}"
        count(length)
        if length != size:
            return f"{name} is {'cut short' if length < size else 'too long'}"
        if real != digest:
            return f"{name} was altered"
        if now != seen:
            known[name], changed = [size, digest, *now], True
    if changed and heal:
        _write_record(folder, known)
    return ""


def _file_names(folder: Path) -> list[str]:
    found = [f"lists/{name}" for name in list_names(folder / "lists")]
    with contextlib.suppress(FileNotFoundError):
        found += [f"parsed/{name}" for name in os.listdir(folder / "parsed")]
    return sorted(found)


def _seen(path: Path, count: Callable[[int], None]) -> list[Any]:
    digest, size = _digest(path)
    count(size)
    return [size, digest, *stamp(path)[1:], boot_id()]


def _read_record(folder: Path) -> dict[str, list[Any]]:
    """Raises OSError, and ValueError for what is no such record."""
    value = sealed.read(folder / "record")
    if value.get("format") != FORMAT:
        raise ValueError("it is of another version")
    return dict(value["files"])


def _write_record(folder: Path, known: dict[str, list[Any]]) -> None:
    sealed.write(folder / "record", {"format": FORMAT, "files": known}, durable=False)


# -- taking over what a command in the image wrote ----------------------------------------------------------


def _take(source: Path, target: Path, root: Root) -> None:
    """Move a list out of a private directory, or copy what a link in it leads to. Raises InstallError."""
    if not source.is_symlink():
        _move(source, target)
        return
    try:
        fd = root.open(os.readlink(source), os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(fd, "rb"), target.open("xb") as there:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise OSError("it is not a regular file")
            copy_range(fd, there.fileno(), info.st_size)
    except OSError as error:
        raise InstallError(f"the package list {source.name} cannot be read: {error}") from error
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _move(source: Path, target: Path) -> None:
    """Move a regular file, and make it ours alone. Raises InstallError for what is no regular file."""
    if not stat.S_ISREG(source.lstat().st_mode):
        raise InstallError(f"apt made {source.name} something else than a regular file")
    source.chmod(0o644)
    source.rename(target)
