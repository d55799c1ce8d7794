"""Packages of RPM, where the database is SQLite; the older forms are told as unknown.

The table Packages has a header for each package: big-endian counts of index entries and of bytes, entries of
16 bytes (tag, type, offset, count), and the bytes (rpm's docs/manual/format_header.md). The file is read into
memory, and nothing of it is trusted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from buildstep.trust.inventory.interface import ROOTS, Database, Reading, plain
from buildstep.trust.inventory.licenses import Expressions
from buildstep.trust.inventory.model import Component
from buildstep.trust.purl import distro_text, purl

_FOLDERS = (b"usr/lib/sysimage/rpm/", b"var/lib/rpm/")
_SQLITE = b"rpmdb.sqlite"
_OTHERS = {b"Packages": "Berkeley DB", b"Packages.db": "ndb"}
_LIMIT = 256 << 20
_MOST_ENTRIES = 65_536
_MOST_VALUES = 1 << 20

_TAGS = {
    1000: "name", 1001: "version", 1002: "release", 1003: "epoch", 1004: "summary", 1011: "vendor",
    1014: "license", 1020: "url", 1022: "arch", 1044: "source", 1047: "provides", 1049: "requires",
    1116: "folder_of", 1117: "names", 1118: "folders", 1027: "whole_names",
}  # fmt: skip
_INT32, _STRING, _STRINGS, _I18N = 4, 6, 8, 9

Header = Mapping[str, Any]


def read(reading: Reading) -> None:
    """Add the packages of each RPM database."""
    for top in ROOTS:
        for folder in dict.fromkeys(reading.real(it, top) + b"/" for it in _FOLDERS):
            _read_folder(reading, top, folder)


def _read_folder(reading: Reading, top: bytes, folder: bytes) -> None:
    path = folder + _SQLITE
    if path in reading.entries:
        data = reading.read(path, limit=_LIMIT)
        import sqlite3

        try:
            headers = list(_headers(data or b""))
        except (sqlite3.Error, struct.error, ValueError, OverflowError, MemoryError) as error:
            reading.tell(f"RPM's database {path.decode()} cannot be read: {plain(str(error), 200)}")
            return
        log = reading.entries.get(path + b"-wal")
        if log is not None and log.size:
            reading.tell(f"RPM's database {path.decode()} has changes beside it that are not read")
        _add(reading, top, path, headers)
        return
    for name, form in _OTHERS.items():
        if folder + name in reading.entries:
            where = (folder + name).decode(errors="replace")
            reading.tell(f"the packages of RPM are not known: {where} is in the form of {form}")


def _headers(data: bytes) -> Iterator[Header]:
    import sqlite3

    if data[:16] != b"SQLite format 3\x00":
        raise ValueError("it is no SQLite database")
    page, pages = struct.unpack_from(">H10xI", data, 16)
    if len(data) < (page if page > 1 else 1 << 16) * pages:
        raise ValueError("it is cut short")
    # Bytes 18 and 19 say that a write-ahead log goes with it (2), and there is none in memory.
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(data[:18] + b"\x01\x01" + data[20:])
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "query_only=ON"):
            connection.execute(f"PRAGMA {pragma}")
        kind = connection.execute("SELECT type FROM sqlite_master WHERE name = 'Packages'").fetchone()
        if kind != ("table",):
            raise ValueError("it has no table of packages")
        for (blob,) in connection.execute("SELECT blob FROM Packages ORDER BY hnum"):
            if isinstance(blob, bytes):
                yield _header(blob)
    finally:
        connection.close()


def _header(blob: bytes) -> Header:
    """Return the values of a header that are used here, by name."""
    entries, size = struct.unpack_from(">II", blob)
    start = 8 + entries * 16
    if entries > _MOST_ENTRIES or start + size > len(blob):
        raise ValueError("a header of a package is damaged")
    data = blob[start : start + size]
    found: dict[str, Any] = {}
    for tag, kind, offset, count in struct.iter_unpack(">IIII", blob[8:start]):
        if tag not in _TAGS or offset > size or count > _MOST_VALUES:
            continue
        if kind == _INT32:
            found[_TAGS[tag]] = struct.unpack_from(f">{count}I", data, offset)
        elif kind in (_STRING, _STRINGS, _I18N):
            found[_TAGS[tag]] = _strings(data, offset, 1 if kind == _STRING else count)
    return found


def _strings(data: bytes, offset: int, count: int) -> tuple[bytes, ...]:
    found = []
    for _ in range(count):
        end = data.find(b"\0", offset)
        if end < 0:
            raise ValueError("a text of a package has no end")
        found.append(data[offset:end])
        offset = end + 1
    return tuple(found)


def _text(header: Header, name: str, limit: int = 1000) -> str:
    values = header.get(name) or (b"",)
    return plain(values[0].decode(errors="replace"), limit) if isinstance(values[0], bytes) else ""


def _add(reading: Reading, top: bytes, location: bytes, headers: list[Header]) -> None:
    # gpg-pubkey is a key of RPM's that is kept as a package; nothing was installed.
    packages = [it for it in headers if _text(it, "name") not in ("", "gpg-pubkey")]
    refs = [_purl(reading, it) for it in packages]
    providers: dict[bytes, str] = {}
    for ref, it in zip(refs, packages, strict=True):
        for name in (*it.get("provides", ()), *_paths(it)):
            providers.setdefault(name, ref)
    for ref, it in zip(refs, packages, strict=True):
        source, source_version = _source(it)
        reading.add(
            Component(
                kind="rpm",
                name=_text(it, "name", 200),
                version=_version(it),
                arch=_text(it, "arch", 50),
                purl=ref,
                source=source,
                source_version=source_version,
                supplier=_text(it, "vendor"),
                homepage=_text(it, "url"),
                description=_text(it, "summary"),
                license=Expressions().all_of([_text(it, "license", 4000)]),
                depends=tuple(
                    sorted({providers[name] for name in it.get("requires", ()) if name in providers} - {ref})
                ),
                files=reading.present([path.lstrip(b"/") for path in _paths(it)], top),
                location=location,
                origin=reading.source.origin(location),
            )
        )


def _paths(header: Header) -> list[bytes]:
    folders, names = header.get("folders", ()), header.get("names", ())
    places = header.get("folder_of", ())
    found = [folders[at] + name for at, name in zip(places, names, strict=False) if at < len(folders)]
    return [*found, *header.get("whole_names", ())]


def _epoch(header: Header) -> int:
    values = header.get("epoch") or (0,)
    return values[0] if isinstance(values[0], int) else 0


def _version(header: Header) -> str:
    version = f"{_text(header, 'version', 100)}-{_text(header, 'release', 100)}"
    return f"{_epoch(header)}:{version}" if _epoch(header) else version


def _source(header: Header) -> tuple[str, str]:
    """Return the source package of `NAME-VERSION-RELEASE.src.rpm`."""
    stem = _text(header, "source", 300).removesuffix(".rpm").rpartition(".")[0]
    rest, _, release = stem.rpartition("-")
    name, _, version = rest.rpartition("-")
    return (name, f"{version}-{release}") if name else (_text(header, "name", 200), _version(header))


def _purl(reading: Reading, header: Header) -> str:
    name = _text(header, "name", 200)
    version = f"{_text(header, 'version', 100)}-{_text(header, 'release', 100)}"
    return purl(
        "rpm",
        reading.distro.id or "rpm",
        name,
        version,
        arch=_text(header, "arch", 50),
        epoch=str(_epoch(header) or ""),
        distro=distro_text(reading.distro),
        upstream=_text(header, "source", 300),
    )


DATABASE = Database(name="rpm", what="packages of RPM", read=read)
