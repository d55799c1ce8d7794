"""Where the files of a plain tar archive are, for archives that are read in place and never extracted."""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from buildstep.errors import ImageError
from buildstep.formats.member_path import MemberFault, clean_path
from buildstep.formats.tar_reader import headers, raw
from buildstep.system.files import Slice, SliceReader

_MAX_LINKS = 40


def read_slice(place: Slice, what: str, *, limit: int) -> bytes:
    """Return all of a small file. Raises ImageError, naming it as `what`, for one over the limit; OSError."""
    if place.size > limit:
        raise ImageError(f"{what} has {place.size} bytes, more than a document may have")
    with place.path.open("rb") as file:
        return SliceReader(file, place.offset, place.size).read()


@dataclass(frozen=True, slots=True)
class ArchiveIndex:
    """The regular files of an archive, and its links by what they lead to; all names are clean ones."""

    files: Mapping[str, Slice]
    links: Mapping[str, str]

    def get(self, name: str) -> Slice | None:
        """Return where a file is, links to it followed inside the archive; None if it is not there."""
        name = clean_name(name)
        for _ in range(_MAX_LINKS):
            if name not in self.links:
                return self.files.get(name)
            name = self.links[name]
        return None


def read_index(path: Path, label: str) -> ArchiveIndex:
    """Return the index of a plain tar. Nothing is extracted, so no name in it can do harm.

    The padding and the end mark may be missing: whoever reads a file of it compares its digest.
    Raises ImageError for what is no tar, is cut short, or has two files of one name; OSError.
    """
    files: dict[str, Slice] = {}
    links: dict[str, str] = {}
    size = path.stat().st_size
    with path.open("rb") as file:
        found = headers(file, size=size, verified=True)
        while (member := _next(found, label)) is not None:
            _add(member, path, files, links, label)
    for name, place in files.items():
        if place.offset + place.size > size:
            raise ImageError(f"{label} ends inside of {name}", hint="it was cut short; copy or make it again")
    return ArchiveIndex(files=files, links=links)


def _next(found: Iterator[tarfile.TarInfo], label: str) -> tarfile.TarInfo | None:
    try:
        return next(found, None)
    except ImageError as error:
        raise ImageError(f"{label}: {error.message}", hint=error.hint) from error


def _add(
    member: tarfile.TarInfo, path: Path, files: dict[str, Slice], links: dict[str, str], label: str
) -> None:
    name = clean_name(member.name)
    if not name or member.sparse is not None:
        return
    if name in files or name in links:
        if not member.isdir():
            raise ImageError(f"{label} has two members named {name}", hint="such an archive is refused")
    elif member.isreg():
        files[name] = Slice(path=path, offset=member.offset_data, size=member.size)
    elif member.islnk():
        links[name] = clean_name(member.linkname)
    elif member.issym() and not member.linkname.startswith("/"):
        links[name] = clean_name(posixpath.join(posixpath.dirname(name), member.linkname))


def clean_name(name: str) -> str:
    """Return a member's name as the index has it; empty for one that leads out of the archive."""
    try:
        return os.fsdecode(clean_path(raw(name)))
    except MemberFault:
        return ""
