"""What differs between two archives or compressed files beside the content of what is in them."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

AR = b"!<arch>\n"
_AR_HEADER = 60


@dataclass(frozen=True, slots=True)
class Opened:
    """Two archives, opened.

    inner: what is in each, by name; note: what of them differs beside that, empty for nothing; fix: what
    keeps it the same; ordered: whether members come in the same order.
    """

    form: str
    note: str
    fix: str
    inner: tuple[dict[str, bytes], dict[str, bytes]]
    ordered: bool = True


def opened(first: bytes, second: bytes) -> Opened | None:
    """Return two files of one archive format as they are opened; None for none, or for damaged ones."""
    for fits, reader in _READERS:
        if fits(first) and fits(second):
            try:
                return reader(first, second)
            except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError,
                    zipfile.BadZipFile, NotImplementedError, RuntimeError):  # fmt: skip
                return None
    return None


def _gzip(first: bytes, second: bytes) -> Opened:
    note = ""
    if first[4:8] != second[4:8]:
        note = "the time in its header"
    elif first[:10] != second[:10] or _name(first) != _name(second):
        note = "the name or the system in its header"
    inner = ({"": gzip.decompress(first)}, {"": gzip.decompress(second)})
    return Opened("gzip", note, "compress with `gzip -n`", inner)


def _name(data: bytes) -> bytes:
    """Return the name of the file in the header of a gzip file."""
    return data[10:].partition(b"\0")[0] if data[3] & 8 and not data[3] & 4 else b""


def _xz(first: bytes, second: bytes) -> Opened:
    return Opened("xz", "", "", ({"": lzma.decompress(first)}, {"": lzma.decompress(second)}))


def _zip(first: bytes, second: bytes) -> Opened:
    archives = [zipfile.ZipFile(io.BytesIO(data)) for data in (first, second)]
    rows = [archive.infolist() for archive in archives]
    inner = [{row.filename: archive.read(row) for row in archive.infolist()} for archive in archives]
    times = [{row.filename: row.date_time for row in found} for found in rows]
    extra = [{row.filename: (row.extra, row.external_attr) for row in found} for found in rows]
    names = [[row.filename for row in found] for found in rows]
    note = "times of its members" if times[0] != times[1] else ""
    note = note or ("attributes of its members" if extra[0] != extra[1] else "")
    jar = "META-INF/MANIFEST.MF" in names[0]
    fix = "`jar --date`" if jar else "`touch -d @$SOURCE_DATE_EPOCH` the files, then `zip -X`"
    fix += ", or `strip-nondeterminism` afterwards"
    return Opened("jar" if jar else "zip", note, fix, (inner[0], inner[1]), names[0] == names[1])


def _ar(first: bytes, second: bytes) -> Opened:
    members = [_ar_members(data) for data in (first, second)]
    heads = [[(name, head[16:48]) for name, head, _ in rows] for rows in members]
    inner = [{name: data for name, _, data in rows} for rows in members]
    names = [[name for name, _ in rows] for rows in heads]
    same = sorted(heads[0]) == sorted(heads[1])
    note = "" if same else "times, owners or modes of its members"
    return Opened("ar", note, "make it with `ar D` (`ranlib -D`)", (inner[0], inner[1]), names[0] == names[1])


def _ar_members(data: bytes) -> list[tuple[str, bytes, bytes]]:
    """Return the members of an archive of ar (ar(5)): name, header, content."""
    found, at = [], len(AR)
    while at + _AR_HEADER <= len(data):
        head = data[at : at + _AR_HEADER]
        size = int(head[48:58])
        at += _AR_HEADER
        found.append((head[:16].decode("latin-1").strip(), head, data[at : at + size]))
        at += size + size % 2
    return found


def _tar(first: bytes, second: bytes) -> Opened:
    members = [_tar_members(data) for data in (first, second)]
    inner = [{name: data for name, _, data in rows} for rows in members]
    heads = [[(name, head) for name, head, _ in rows] for rows in members]
    names = [[name for name, _ in rows] for rows in heads]
    same = sorted(heads[0]) == sorted(heads[1])
    note = "" if same else "times, owners or modes of its members"
    fix = "make it with `tar --sort=name --mtime=@$SOURCE_DATE_EPOCH --owner=0 --group=0 --numeric-owner`"
    return Opened("tar", note, fix, (inner[0], inner[1]), names[0] == names[1])


def _tar_members(data: bytes) -> list[tuple[str, tuple[object, ...], bytes]]:
    found: list[tuple[str, tuple[object, ...], bytes]] = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for row in archive:
            content = archive.extractfile(row) if row.isreg() else None
            head = (row.mtime, row.mode, row.uid, row.gid, row.uname, row.gname, row.type, row.linkname)
            found.append((row.name, head, content.read() if content is not None else b""))
    return found


_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes, bytes], Opened]], ...] = (
    (lambda data: data.startswith(b"\x1f\x8b\x08"), _gzip),
    (lambda data: data.startswith(b"\xfd7zXZ\0"), _xz),
    (lambda data: data.startswith(b"PK\x03\x04"), _zip),
    (lambda data: data.startswith(AR), _ar),
    (lambda data: data[257:262] == b"ustar", _tar),
)
