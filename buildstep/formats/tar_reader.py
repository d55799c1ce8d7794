"""Read tar members as entries: exact names, times and attributes. Unsafe members are refused."""

from __future__ import annotations

import base64
import binascii
import os
import tarfile
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Self, cast

from buildstep.errors import ImageError
from buildstep.formats.acl import AclText, acl_mode, parse_acl
from buildstep.formats.decompress import Decompressed
from buildstep.formats.member_path import MemberFault, clean_path
from buildstep.formats.tar_writer import xattr_name
from buildstep.system.files import Extents
from buildstep.tree import entry as tree_entry
from buildstep.tree import scan
from buildstep.tree.entry import Entry

_KINDS = {
    tarfile.REGTYPE: "f",
    tarfile.AREGTYPE: "f",
    tarfile.CONTTYPE: "f",
    tarfile.GNUTYPE_SPARSE: "f",
    tarfile.DIRTYPE: "d",
    tarfile.SYMTYPE: "l",
    tarfile.CHRTYPE: "c",
    tarfile.BLKTYPE: "b",
    tarfile.FIFOTYPE: "p",
}
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_MAX_EXTENSION = 16 << 20
"""Bytes of pax records that one member may have; tarfile reads them into memory."""

_MAX_XATTR_NAME = 255
_MAX_TARGET = 4095
_LAST_SECOND = 2**62
"""Far from what a file system keeps, and safe in the arithmetic of a kernel with 64-bit times."""
_ACLS = {
    "SCHILY.acl.access": b"system.posix_acl_access",
    "SCHILY.acl.default": b"system.posix_acl_default",
}
_PLAIN_ACL = 4 + 3 * 8
"""Bytes of an ACL that says no more than the mode, which the kernel does not keep."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member. link: the target of a hard link, else None. extents: where the content belongs.

    acls: ACLs that name users or groups without their numbers, each with its attribute. They are not in the
    entry yet: the numbers are known once the image's own tables are (`with_acls`).
    """

    entry: Entry
    link: bytes | None
    extents: Extents
    acls: tuple[tuple[bytes, AclText], ...] = ()


def members(source: Decompressed, *, verified: bool = False) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar, to its end. The content of each may be read from `source` before the next.

    verified: see `headers`. Raises ImageError for what is not a tar, is damaged or cut short.
    """
    yield from headers(cast(IO[bytes], source), verified=verified)
    source.drain()


def headers(
    stream: IO[bytes], *, size: int | None = None, verified: bool = False
) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a plain tar. The content of each may be read from `stream` before the next.

    stream: may be one that only seeks forward. size: its bytes, if it seeks freely, beyond its end too.
    verified: whether the caller compares digests, and so sees what a content lacks. Then the archive may end
    after its last member's content, as some tools leave out what comes behind it: padding and the end mark,
    or all of an empty archive. Else it must have the mark, which shows that it is complete.
    Raises ImageError for what is not a tar, is damaged or cut short.
    """
    archive: tarfile.TarFile | None = None
    try:
        archive = tarfile.TarFile(fileobj=stream, tarinfo=_Info, encoding="utf-8", errors="surrogateescape")
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep every one
            yield info
    except (tarfile.ReadError, ValueError, IndexError, OverflowError) as error:
        # All but the first come from numbers in a header that are none.
        if verified and _only_padding_is_missing(archive, _end(stream, size)):
            return
        raise ImageError(f"the archive is damaged: {error}") from error
    # tarfile reads a block past its offset when it finds the mark, and none at the end of the data.
    if not verified and _end(stream, size) <= archive.offset:
        raise ImageError(
            "the archive has no end mark",
            hint="it was cut short; copy or make it again",
        )


def _end(stream: IO[bytes], size: int | None) -> int:
    """Return where the data ended, after all of it was read."""
    return stream.tell() if size is None else size


def _only_padding_is_missing(archive: tarfile.TarFile | None, end: int) -> bool:
    """Whether the data ended before the block in which the next header would begin, or at once.

    That the content was there, whoever reads it has seen.
    """
    if archive is None:
        return end == 0
    return 0 < archive.offset - end < tarfile.BLOCKSIZE


class _Info(tarfile.TarInfo):
    """Raises ImageError for a damaged header in the middle, which tarfile takes for the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            info = super().fromtarfile(archive)
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            # In the records of a pax header, which newer releases of Python check, and distributions' own.
            # A wrong block was refused below already.
            raise ImageError(f"the archive is damaged: {error}") from error
        if info.size < 0:  # the next header would be this one again, or one before it
            raise ImageError(f"the archive is damaged: {info.name} has a size of {info.size}")
        return info

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Info:
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf and buf.count(0) != len(buf):
                raise ImageError(f"the archive is damaged or not a tar: {error}") from error
            raise
        if info.type in _EXTENSIONS and info.size > _MAX_EXTENSION:
            raise ImageError(f"the archive has a header of {info.size} bytes")
        return info


def raw(text: str) -> bytes:
    """Return a name's bytes as they are in the archive."""
    return text.encode("utf-8", "surrogateescape")


def parse(info: tarfile.TarInfo) -> Member:
    """Return a member as an entry, its content unread. Raises MemberFault."""
    path = clean_path(raw(info.name))
    if info.type == tarfile.LNKTYPE:
        try:
            link = clean_path(raw(info.linkname))
        except MemberFault as fault:
            raise MemberFault(f"a hard link to {info.linkname!r}, {fault}") from None
        return Member(Entry(path, "f", 0, 0, 0), link, ())
    kind = _KINDS.get(info.type)
    if kind is None:
        raise MemberFault(f"a member of the unknown type {info.type!r}")
    for value, what in ((info.uid, "uid"), (info.gid, "gid")):
        if not 0 <= value < 2**32 - 1:
            raise MemberFault(f"the {what} {value}")
    xattrs, acls = _attributes(info.pax_headers)
    entry = Entry(
        path=path,
        kind=kind,
        mode=0o777 if kind == "l" else info.mode & 0o7777,
        uid=info.uid,
        gid=info.gid,
        mtime=_mtime(info),
        xattrs=xattrs,
    )
    _apply_acl(entry)
    extents: Extents = ()
    if kind == "f":
        entry.size = info.size
        extents = _extents(info)
    elif kind == "l":
        entry.target = raw(info.linkname)
        if not entry.target or b"\0" in entry.target or len(entry.target) > _MAX_TARGET:
            raise MemberFault("a symbolic link to a name that cannot be")
    elif kind in "cb":
        entry.rdev = (info.devmajor, info.devminor)
        if not (0 <= info.devmajor < 1 << 12 and 0 <= info.devminor < 1 << 20):
            raise MemberFault(f"the device number {info.devmajor}:{info.devminor}")
        if entry.rdev == (0, 0) and kind == "c":
            # overlayfs(5): in a lower layer it hides what is below it.
            raise MemberFault("the device 0:0, which means a removed file to overlayfs")
    return Member(entry, None, extents, acls)


def with_acls(
    entry: Entry, acls: Iterable[tuple[bytes, AclText]], numbers: Mapping[tuple[str, str], int]
) -> None:
    """Give an entry the ACLs of its member that name somebody. numbers: of all their `names`.

    Raises ValueError for a number that no ACL can have.
    """
    found = dict(entry.xattrs) | {name: acl.value(numbers) for name, acl in acls}
    entry.xattrs = tuple((name, found[name]) for name in sorted(found))
    entry.text = b""
    _apply_acl(entry)


def _apply_acl(entry: Entry) -> None:
    for name, value in entry.xattrs:
        if name == b"system.posix_acl_access" and (bits := acl_mode(value)) is not None:
            # Some tools write the owning group's own permissions; the file will have the mask's.
            entry.mode = entry.mode & 0o7000 | bits


def _extents(info: tarfile.TarInfo) -> Extents:
    sparse = cast("list[tuple[int, int]] | None", getattr(info, "sparse", None))
    if sparse is None:
        return ((0, info.size),) if info.size else ()
    end = 0
    pieces = tuple((offset, length) for offset, length in sparse if length)  # GNU's header has room for four
    for offset, length in pieces:
        if offset < end or length < 0 or offset + length > info.size:
            raise MemberFault("a sparse map that does not fit the file")
        end = offset + length
    return pieces


def _mtime(info: tarfile.TarInfo) -> int:
    """Return the exact time in nanoseconds; tarfile's float is not exact."""
    text = info.pax_headers.get("mtime")
    if text is None:
        return _checked(int(info.mtime)) * 1_000_000_000
    whole, _, part = text.partition(".")
    try:
        seconds = _checked(int(whole or "0"))
        nanoseconds = int((part + "000000000")[:9])
    except ValueError:
        raise MemberFault(f"the time {text!r}") from None
    if whole.startswith("-"):
        nanoseconds = -nanoseconds
    return seconds * 1_000_000_000 + nanoseconds


def _checked(seconds: int) -> int:
    """Refuse a time that no system call takes; one that a file system cannot keep stays in the file list."""
    if not -_LAST_SECOND <= seconds <= _LAST_SECOND:
        raise MemberFault(f"a time of {seconds} seconds since 1970")
    return seconds


def _attributes(headers: Mapping[str, str]) -> tuple[tree_entry.Xattrs, tuple[tuple[bytes, AclText], ...]]:
    """Return the attributes that belong to an image, sorted, from keywords of star, GNU tar and bsdtar.

    And the ACLs that name somebody without a number, each with its attribute. Raises MemberFault.
    """
    found: dict[bytes, bytes] = {}
    named: list[tuple[bytes, AclText]] = []
    try:
        for key, value in headers.items():
            if key.startswith("LIBARCHIVE.xattr."):
                name = urllib.parse.unquote_to_bytes(key[17:])
                padded = value + "=" * (-len(value) % 4)
                found.setdefault(name, base64.b64decode(padded, validate=True))
            elif key.startswith("SCHILY.xattr.") and f"LIBARCHIVE.xattr.{key[13:]}" not in headers:
                # bsdtar writes both with one encoding of the name, of which GNU tar knows two characters.
                found[xattr_name(raw(key[13:]))] = raw(value)
            elif key in _ACLS:
                acl = parse_acl(raw(value))
                if acl.names:
                    named.append((_ACLS[key], acl))
                elif len(packed := acl.value()) != _PLAIN_ACL or key.endswith("default"):
                    found[_ACLS[key]] = packed
    except (ValueError, binascii.Error) as error:
        raise MemberFault(f"attributes that are not understood: {error}") from None
    for name in found:
        if not name or b"\0" in name or len(name) > _MAX_XATTR_NAME:
            raise MemberFault(f"an attribute called {os.fsdecode(name)!r}")
    kept = (name for name in sorted(found) if not scan.SKIPPED_XATTRS.match(name))
    return tuple((name, found[name]) for name in kept), tuple(named)
