"""The package files of Debian's that a package cache keeps, by the digests that the package lists have.

    debs/NAME.DIGEST   a package file by apt's name for it, and its SHA-256 (or SHA-512)

Each is hashed once in every build that uses it, before dpkg sees it, so whatever happened to the file since
it was downloaded is noticed. Only the build itself writes here, never a command in an image.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from buildstep.errors import InstallError
from buildstep.events import Bus
from buildstep.rootfs.installers.deb_file import file_stem
from buildstep.rootfs.interface import StaleIndex
from buildstep.system import sealed
from buildstep.system.files import copy_range, try_link
from buildstep.system.private import private_dir
from buildstep.system.root import Root

_LINE = re.compile(r"'(?P<uri>[^']+)' (?P<name>\S+) (?P<size>\d+) ?(?P<kind>SHA256|SHA512)?:?(?P<digest>\S*)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+%~_-]*")
_LENGTHS = {"SHA256": 64, "SHA512": 128}
KNOWN = "archives"
"""In a directory of lists: what these say of package files."""

_LONGEST = 254
"""Of a file name, in bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A package file as the package lists have it.

    name: apt's for the file; digest: SHA-256 or SHA-512 in hex, empty where the lists have neither: then the
    file is downloaded by every build, and not kept.
    """

    uri: str
    name: str
    size: int
    digest: str

    @property
    def stem(self) -> str:
        """The name without the architecture; see `deb_file.file_stem`."""
        return self.name.rpartition("_")[0]

    @property
    def kind(self) -> str:
        """The digest's algorithm as apt writes it; empty where there is none."""
        return next((kind for kind, length in _LENGTHS.items() if len(self.digest) == length), "")


def parse_uris(text: str) -> list[Archive]:
    """Return what `apt-get --print-uris` printed. Raises InstallError for a name that no package file has."""
    found = []
    for row in text.splitlines():
        if not (match := _LINE.fullmatch(row.strip())):
            continue
        name, kind, digest = match["name"], match["kind"], match["digest"].lower()
        if not _NAME.fullmatch(name):
            raise InstallError(f"apt names a package file {name!r}, which is no file name of a package")
        if not kind or not re.fullmatch(f"[0-9a-f]{{{_LENGTHS[kind]}}}", digest):
            digest = ""
        found.append(Archive(uri=match["uri"], name=name, size=int(match["size"]), digest=digest))
    return found


def wanted_files(ask: Callable[[list[str]], str], words: Sequence[str]) -> list[Archive]:
    """Return the package files that an apt-get of these words would download. ask: runs it."""
    found = parse_uris(ask(["-oAcquire::ForceHash=SHA256", "--print-uris", *words]))
    if not all(archive.digest for archive in found):
        found = parse_uris(ask(["-oAcquire::ForceHash=SHA512", "--print-uris", *words]))
    return found


class ArchiveStore:
    """The package files of a package cache."""

    def __init__(self, cache: Path, bus: Bus) -> None:
        self.folder = cache / "debs"
        self.bus = bus

    def path(self, archive: Archive) -> Path:
        """Return where a package file is, if it is kept."""
        end = f".{archive.digest}"
        return self.folder / (archive.name[: _LONGEST - len(end)] + end)

    def show(self, archive: Archive, folder: Path) -> bool:
        """Hash a kept package file, and link it into a directory under apt's name for it.

        Returns whether it was there and good; a damaged one is removed, with a note.
        """
        path = self.path(archive)
        if not archive.digest or not path.exists():
            return False
        if problem := self.problem(archive, path):
            text = f"the kept package file {archive.name} is {problem}; it is fetched again"
            self.bus.note(text, level="warning")
            path.unlink(missing_ok=True)
            return False
        _link(path, folder / archive.name)
        os.utime(path)
        return True

    def take(self, archive: Archive, source: Path, folder: Path) -> str:
        """Take over a downloaded package file and link it into a directory; returns what is wrong with it.

        One without a digest is moved to the directory, and not kept.
        """
        if problem := self.problem(archive, source):
            return problem
        source.chmod(0o644)
        if not archive.digest:
            source.rename(folder / archive.name)
            return ""
        private_dir(self.folder)
        source.rename(self.path(archive))
        _link(self.path(archive), folder / archive.name)
        return ""

    def missing(self, archives: Iterable[Archive], folder: Path) -> list[Archive]:
        """Link kept package files into a directory, and return those that are not there then."""
        return [it for it in archives if not (folder / it.name).exists() and not self.show(it, folder)]

    def take_all(
        self, archives: Sequence[Archive], source: Path, folder: Path, *, last: bool
    ) -> list[Archive]:
        """Take over downloaded package files like `take`; return those that must be downloaded again.

        last: there is no other try. Raises StaleIndex then.
        """
        wrong = []
        for archive in archives:
            if problem := self.take(archive, source / archive.name, folder):
                if last:
                    raise StaleIndex(
                        f"the package file {archive.name} is {problem} after it was downloaded twice",
                        hint="the mirror, or a proxy before it, sends something else than its lists say",
                    )
                self.bus.note(
                    f"the package file {archive.name} is {problem}; it is fetched again", level="warning"
                )
                (source / archive.name).unlink(missing_ok=True)
                wrong.append(archive)
        return wrong

    def take_good(self, archives: Sequence[Archive], source: Path, folder: Path) -> None:
        """Take over those of package files that were downloaded before another could not be: the next try
        needs only that one."""
        for archive in archives:
            self.take(archive, source / archive.name, folder)

    def problem(self, archive: Archive, path: Path) -> str:
        """Return what is wrong with a file that should be this package file; empty for nothing."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            return f"not there ({error.strerror})"
        with os.fdopen(fd, "rb") as stream:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                return "not a regular file"
            if info.st_size != archive.size:
                return "cut short" if info.st_size < archive.size else "too long"
            if archive.digest:
                self.bus.count("debs_hashed")
                self.bus.count("deb_bytes_hashed", info.st_size)
                try:
                    digest = hashlib.file_digest(stream, archive.kind.lower()).hexdigest()
                except OSError as error:
                    return f"not readable ({error.strerror})"
                if digest != archive.digest:
                    return "damaged"
        return ""


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; a copy where the file system has no hard links."""
    target.unlink(missing_ok=True)
    if not try_link(source, target):
        shutil.copyfile(source, target)


def copy_local(archive: Archive, root: Root, folder: Path) -> bool:
    """Copy a package file of a repository of file:, which is in the image's root, into a directory.

    Returns False for one of another kind of repository. Raises StaleIndex where it cannot be read.
    """
    if not archive.uri.startswith("file:"):
        return False
    path = unquote(urlsplit(archive.uri).path)
    try:
        fd = root.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(fd, "rb"), (folder / archive.name).open("wb") as there:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError("it is not a regular file")
            copy_range(fd, there.fileno(), os.fstat(fd).st_size)
    except OSError as error:
        raise StaleIndex(f"{path} in the image, a package file, cannot be read: {error}") from error
    return True


def kept_files(cache: Path) -> list[Path]:
    """Return the package files that a cache keeps."""
    with contextlib.suppress(FileNotFoundError):
        return sorted((cache / "debs").iterdir())
    return []


def damage(path: Path) -> str:
    """Read a kept package file and return what is wrong with it; empty for nothing."""
    digest = path.name.rpartition(".")[2]
    kind = next((kind for kind, length in _LENGTHS.items() if len(digest) == length), "")
    if not kind:
        return "its name has no digest"
    try:
        with path.open("rb") as stream:
            real = hashlib.file_digest(stream, kind.lower()).hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if real == digest else "damaged"


# -- what the lists say, as far as it was asked -------------------------------------------------------------


def known_archives(path: Path, versions: Mapping[str, str]) -> list[Archive] | None:
    """Return the package files of these versions, if all are known from earlier questions to the lists."""
    stems = [file_stem(*item) for item in versions.items() if item[1]]
    rows = _read(path)
    known = {archive.stem: archive for archive in rows}
    if len(known) < len(rows):  # of two architectures: the name alone does not tell which is meant
        return None
    return [known[stem] for stem in stems] if all(stem in known for stem in stems) else None


def remember_archives(path: Path, found: Sequence[Archive]) -> None:
    """Add what the lists say of package files to what is known of them."""
    stems = [archive.stem for archive in found]
    new = [archive for archive in found if archive.digest and stems.count(archive.stem) == 1]
    rows = {archive.name: asdict(archive) for archive in (*_read(path), *new)}
    sealed.write(path, {"files": rows}, durable=False)


def _read(path: Path) -> list[Archive]:
    """Return what is known; nothing where that is damaged."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return [Archive(**row) for row in sealed.read(path)["files"].values()]
    return []


def with_stems(found: Iterable[Archive], versions: Mapping[str, str]) -> list[Archive]:
    """Return the package files of these versions only; all where one of them cannot be told by its name."""
    found = list(found)
    stems = {file_stem(*item) for item in versions.items() if item[1]}
    there = [archive for archive in found if archive.stem in stems]
    return there if len(there) == len(stems) else found
