"""Write tar archives: ustar headers where they suffice, pax records where they do not.

Format: POSIX.1-2017 pax and ustar; GNU tar's manual for GNU.sparse 1.0; star's SCHILY.xattr and SCHILY.acl
keywords; libarchive's tar(5) for LIBARCHIVE.xattr. There are no user and group names and no parts of
seconds, so that the same tree always gives the same bytes.
"""

from __future__ import annotations

import base64
import urllib.parse
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from buildstep.formats.acl import acl_to_text
from buildstep.system.files import Extents
from buildstep.tree.entry import Entry, Xattrs

BLOCK = 512
END = bytes(2 * BLOCK)
"""The blocks that end an archive."""

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"

MAX_ID = 0o7777777
"""The largest user or group id that fits into a ustar header."""
_MAX_SIZE = 0o77777777777
"""The largest size, and the last second since 1970, that fits into a ustar header."""
_TYPES = {"f": b"0", "l": b"2", "c": b"3", "b": b"4", "d": b"5", "p": b"6"}
_MAGIC = b"ustar\x0000" + bytes(64)
_NO_DEVICE = b"0000000\x000000000\x00"
_ACLS = {
    b"system.posix_acl_access": b"SCHILY.acl.access",
    b"system.posix_acl_default": b"SCHILY.acl.default",
}


def padding(size: int) -> bytes:
    """Return the zero bytes that follow content of this size."""
    return bytes(-size % BLOCK)


# -- ustar ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _owner(mode: int, uid: int, gid: int) -> bytes:
    return b"%07o\0%07o\0%07o\0" % (mode, uid, gid)


def _tail(
    typeflag: bytes, *, link: bytes = b"", device: bytes = _NO_DEVICE, prefix: bytes = b""
) -> tuple[bytes, int]:
    """Return everything behind a header's checksum, and the sum of its bytes."""
    tail = typeflag + link.ljust(100, b"\0") + _MAGIC + device + prefix.ljust(155, b"\0") + bytes(12)
    return tail, sum(tail)


_plain_tail = lru_cache(maxsize=16)(_tail)
"""For entries without link, device and prefix, which nearly all are."""


def _ustar(name: bytes, owner: bytes, size: int, mtime: int, tail_and_sum: tuple[bytes, int]) -> bytes:
    """Return a header block. tail_and_sum: see `_tail`."""
    tail, total = tail_and_sum
    head = b"%b%b%011o\0%011o\0" % (name.ljust(100, b"\0"), owner, size, mtime)
    # The checksum is the sum of all bytes, its own field taken as spaces. Adler-32's low half is that
    # sum plus one, modulo 65521, which 148 bytes cannot reach; it is many times faster than sum().
    total += (zlib.adler32(head) & 0xFFFF) + 255
    return b"%b%06o\0 %b" % (head, total, tail)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Return (prefix, name) as ustar can hold them, or None when it cannot."""
    if len(name) <= 100:
        return b"", name
    if len(name) > 256:
        return None
    # The slash between the two is not stored; a directory's last one stays with the name.
    slash = name.find(b"/", len(name) - 101, len(name) - 1)
    if slash < 1 or slash > 155:
        return None
    return name[:slash], name[slash + 1 :]


def big_size_header(name: bytes, size: int) -> bytes:
    """Return a regular file's header (0644, root, time 0) in one block, whatever the size.

    From 8 GiB on the size is a GNU base-256 number: the header's place is left free before its size is known,
    so there is no room for a pax record.
    """
    assert len(name) <= 100
    owner = _owner(0o644, 0, 0)
    if size <= _MAX_SIZE:
        return _ustar(name, owner, size, 0, _plain_tail(b"0"))
    number = b"\x80" + size.to_bytes(11, "big")
    head = name.ljust(100, b"\0") + owner + number + b"%011o\0" % 0
    tail, total = _plain_tail(b"0")
    return b"%b%06o\0 %b" % (head, sum(head) + total + 256, tail)


# -- pax ------------------------------------------------------------------------------------------------


def pax_record(key: bytes, value: bytes) -> bytes:
    """Return `length key=value\\n`, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _pax_header(records: Sequence[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(pax_record(key, value) for key, value in records)
    head = _ustar(b"././@PaxHeader", _owner(0o644, 0, 0), len(body), 0, _plain_tail(b"x"))
    return head + body + padding(len(body))


def xattr_key(name: bytes) -> bytes:
    """Return the pax keyword of an extended attribute; `=` and `%` in a name are written as GNU tar does."""
    if b"=" in name or b"%25" in name or b"%3D" in name:
        name = name.replace(b"%", b"%25").replace(b"=", b"%3D")
    return b"SCHILY.xattr." + name


def xattr_name(key: bytes) -> bytes:
    """Return the extended attribute's name from the last part of a SCHILY.xattr keyword."""
    return key.replace(b"%3D", b"=").replace(b"%25", b"%")


def _xattr_records(xattrs: Xattrs, *, acl_text: bool) -> list[tuple[bytes, bytes]]:
    records = []
    for name, value in xattrs:
        if acl_text and name in _ACLS:
            text = acl_to_text(value)
            if text is not None:
                records.append((_ACLS[name], text))
                continue
        key = xattr_key(name)
        records.append((key, value))
        if not key.endswith(name):
            # bsdtar, and who reads records with Go or Python, does not know GNU tar's way to write such a
            # name, but this one is documented, and for all names (libarchive's tar(5)).
            quoted = urllib.parse.quote_from_bytes(name).encode()
            records.append((b"LIBARCHIVE.xattr." + quoted, base64.b64encode(value).rstrip(b"=")))
    return records


# -- entries --------------------------------------------------------------------------------------------


def second_of(entry: Entry, epoch: int | None) -> int:
    """Return the time that an archive has of an entry: whole seconds since 1970, at most `epoch`."""
    second = entry.mtime // 1_000_000_000
    return second if epoch is None or second <= epoch else epoch


def is_plain(entry: Entry, name: bytes, second: int) -> bool:
    """Whether one ustar header says all of a file or directory, as it does for nearly every one.

    name: as the archive has it; second: see `second_of`. A sparse file is looked at elsewhere.
    """
    return (
        entry.kind in ("f", "d")
        and (entry.kind == "d" or entry.size <= _MAX_SIZE)
        and len(name) <= 100
        and not entry.xattrs
        and not entry.first
        and entry.uid <= MAX_ID
        and entry.gid <= MAX_ID
        and 0 <= second <= _MAX_SIZE
    )


def content_size(entry: Entry, extents: Extents | None = None) -> int:
    """Return the bytes of content after an entry's header, without padding; a sparse map is in the header."""
    if entry.kind != "f" or entry.first:
        return 0
    return entry.size if extents is None else sum(length for _, length in extents)


def _sparse_map(extents: Extents, size: int) -> bytes:
    rows = list(extents)
    assert all(offset % BLOCK == 0 for offset, _ in rows)
    assert all(length % BLOCK == 0 for _, length in rows[:-1])
    if not rows or sum(rows[-1]) < size:
        rows.append((size, 0))  # how GNU tar marks a hole at the end
    text = b"%d\n" % len(rows) + b"".join(b"%d\n%d\n" % row for row in rows)
    return text + padding(len(text))


def header(
    entry: Entry, *, epoch: int | None, extents: Extents | None = None, acl_text: bool = False
) -> bytes:
    """Return everything that comes before an entry's content. Sockets have no place in a tar.

    epoch: the latest mtime (s) to write, None for no limit. extents: of a sparse file only. acl_text: write
    ACLs as SCHILY.acl text, which GNU tar and bsdtar restore, instead of as extended attributes, which OCI
    tools restore.
    """
    kind = entry.kind
    second = second_of(entry, epoch)
    name = entry.path if kind != "d" else entry.path + b"/" if entry.path else b"./"
    size = entry.size if kind == "f" and not entry.first else 0
    if extents is None and is_plain(entry, name, second):
        owner = _owner(entry.mode, entry.uid, entry.gid)
        return _ustar(name, owner, size, second, _plain_tail(b"0" if kind == "f" else b"5"))
    return _full_header(entry, name, size, second, extents, acl_text=acl_text)


def _full_header(
    entry: Entry, name: bytes, size: int, second: int, extents: Extents | None, *, acl_text: bool
) -> bytes:
    records: list[tuple[bytes, bytes]] = []
    body = b""
    link = entry.first or entry.target
    split: tuple[bytes, bytes] | None
    if extents is not None:
        body = _sparse_map(extents, entry.size)
        records += [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", name),
            (b"GNU.sparse.realsize", b"%d" % entry.size),
        ]
        size = len(body) + content_size(entry, extents)
        # A reader that does not know sparse files must not take map and data for the file.
        split = (b"", (b"GNUSparseFile.0/" + name.rpartition(b"/")[2])[:100])
    else:
        split = _split(name)
    if split is None:
        records.append((b"path", name))
        split = (b"", name[:100])
    if len(link) > 100:
        records.append((b"linkpath", link))
        link = link[:100]
    uid, gid, size, second = (
        _number(records, key, value, limit)
        for key, value, limit in (
            (b"uid", entry.uid, MAX_ID),
            (b"gid", entry.gid, MAX_ID),
            (b"size", size, _MAX_SIZE),
            (b"mtime", second, _MAX_SIZE),
        )
    )
    if any(not _is_utf8(value) for _, value in records):
        # Without it pax text is UTF-8, and a reader may refuse or change the name.
        records.insert(0, (b"hdrcharset", b"BINARY"))
    records += _xattr_records(entry.xattrs, acl_text=acl_text)
    device = _NO_DEVICE
    if entry.kind in "cb":
        device = b"%07o\0%07o\0" % entry.rdev
    typeflag = b"1" if entry.first else _TYPES[entry.kind]
    tail = _tail(typeflag, link=link, device=device, prefix=split[0])
    block = _ustar(split[1], _owner(entry.mode, uid, gid), size, second, tail)
    return (_pax_header(records) if records else b"") + block + body


def _number(records: list[tuple[bytes, bytes]], key: bytes, value: int, limit: int) -> int:
    """Return what the ustar header has of a number; one that does not fit goes into a record.

    Readers that know no pax see the nearest time that fits, and 0 for any other number.
    """
    if 0 <= value <= limit:
        return value
    records.append((key, b"%d" % value))
    return limit if key == b"mtime" and value > limit else 0


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


class Whiteout(Entry):
    """An entry that is no file, and removes one of a lower layer."""

    __slots__ = ()


def whiteout(path: bytes) -> Whiteout:
    """Return the entry that removes `path` of a lower layer (OCI image-spec, layer.md)."""
    parent, slash, name = path.rpartition(b"/")
    return Whiteout(path=parent + slash + WHITEOUT + name, kind="f", mode=0o644, uid=0, gid=0)


# -- a stream of entries --------------------------------------------------------------------------------


class Out(Protocol):
    """Where the archive goes: `boundary` announces each entry, then come its bytes."""

    def boundary(self, path: bytes, size: int, header: int = 512) -> None: ...

    def write(self, data: bytes | memoryview) -> None: ...


class TarWriter:
    """Writes entries in the order given, and the padding and the end of the archive. Shaped like a Sink."""

    def __init__(self, out: Out, *, epoch: int | None, acl_text: bool = False) -> None:
        self._out = out
        self._epoch = epoch
        self._acl_text = acl_text
        self._left = 0
        self._pad = b""

    def begin(self, entry: Entry) -> None:
        """Write an entry's header; exactly its content must follow by `data`."""
        head = header(entry, epoch=self._epoch, acl_text=self._acl_text)
        self._start(entry, head, content_size(entry))

    def begin_sparse(self, entry: Entry, extents: Extents) -> None:
        """Write the header of a file with holes; only the bytes of `extents` must follow by `data`."""
        head = header(entry, epoch=self._epoch, extents=extents, acl_text=self._acl_text)
        self._start(entry, head, content_size(entry, extents))

    def _start(self, entry: Entry, head: bytes, size: int) -> None:
        self._out.boundary(entry.path, size, len(head))
        self._out.write(head)
        self._left = size
        self._pad = padding(size) if size else b""

    def data(self, offset: int, chunk: bytes) -> None:
        self._left -= len(chunk)
        self._out.write(chunk)

    def end(self, entry: Entry) -> None:
        """Complete the entry."""
        assert not self._left, f"{entry.path!r}: {self._left} bytes of content are missing"
        if self._pad:
            self._out.write(self._pad)

    def finish(self) -> None:
        """Write the end of the archive."""
        self._out.write(END)
