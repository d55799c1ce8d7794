"""A feed made quick to open: one SQLite file, in which the advisories of a package are one row.

Of the file only the rows that are asked for are read, and each carries a digest over its key and what it
says. The rows of a feed are sorted in a temporary database that has no name, so that neither a long file
nor a killed import leaves anything; the finished one gets its name whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from buildstep.errors import DiskError, NoDatabaseError, ToolMissing
from buildstep.system.files import atomic_write
from buildstep.trust.vulnerabilities.feeds.interface import Reading
from buildstep.trust.vulnerabilities.model import Advisory, Feed

if TYPE_CHECKING:
    import sqlite3

SUFFIX = ".vulndb"
FORMAT = 2
_APPLICATION = 0x62737476
_LARGEST_ROW = 256 << 20
_SEAL = 16

_TABLES = """
create table feed (data blob);
create table packages (bucket integer primary key, data blob);
"""

Key = tuple[str, str]
"""Scope, and name of the package."""


def _sqlite() -> Any:
    try:
        import sqlite3
    except ImportError as error:
        raise ToolMissing(
            "this Python has no sqlite3, in which databases of vulnerabilities are kept",
            hint="install libsqlite3 and its Python module",
        ) from error
    return sqlite3


class Writer:
    """Gathers the rows of a feed, and writes its database. Use it as a context manager."""

    def __init__(self) -> None:
        self._rows = _sqlite().connect("")
        self._rows.executescript(
            "pragma journal_mode=off; pragma synchronous=off; pragma cache_size=-32000;"
            "create table row (hash integer, scope text, name text, data text);"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()

    def write(self, reading: Reading, source: Path, digest: str, folder: Path) -> tuple[Path, Feed]:
        """Read a feed to its end, and write it into a directory; return where, and what it is.

        Raises DiskError where there is no room to sort it.
        """
        try:
            return self._write(reading, source, digest, folder)
        except _sqlite().Error as error:
            raise DiskError(
                f"the advisories of {source} cannot be sorted: {error}",
                hint="they need some hundreds of megabytes in the temporary directory (TMPDIR)",
            ) from error

    def _write(self, reading: Reading, source: Path, digest: str, folder: Path) -> tuple[Path, Feed]:
        self._rows.executemany(
            "insert into row values (?, ?, ?, ?)",
            (
                (_hash(scope, name), scope, name, json.dumps(advisory.row(), separators=(",", ":")))
                for scope, name, advisory in reading.rows
            ),
        )
        scopes = self._scopes(reading)
        (rows,) = self._rows.execute("select count(*) from row").fetchone()
        (buckets,) = self._rows.execute("select count(distinct hash) from row").fetchone()
        feed = Feed(
            name=reading.name, file=source.name, digest=digest, updated=reading.updated, dated=reading.dated,
            rows=rows,
        )  # fmt: skip
        told = {
            **_as_dict(feed), "imported": time.time(), "scopes": scopes, "buckets": max(1, buckets),
        }  # fmt: skip
        with contextlib.closing(_sqlite().connect("")) as target:
            target.executescript(_TABLES)
            target.execute(f"pragma application_id={_APPLICATION}")
            target.execute(f"pragma user_version={FORMAT}")
            target.execute("insert into feed values (?)", (_sealed("feed", told),))
            target.executemany("insert into packages values (?, ?)", self._buckets(max(1, buckets)))
            target.commit()
            data = target.serialize()
        path = folder / f"{feed.name}{SUFFIX}"
        with atomic_write(path, mode=0o644) as stream:
            stream.write(data)
        return path, feed

    def _scopes(self, reading: Reading) -> list[str]:
        """Drop what the feed is not about, and return what it is about."""
        found = [scope for (scope,) in self._rows.execute("select distinct scope from row order by scope")]
        for scope in found:
            if not reading.only(scope):
                self._rows.execute("delete from row where scope = ?", (scope,))
        return [scope for scope in found if reading.only(scope)]

    def _buckets(self, count: int) -> Iterator[tuple[int, bytes]]:
        """Yield the rows of the database, in order, empty ones too."""
        found = self._rows.execute(
            "select hash % ? as bucket, scope, name, data from row order by bucket, scope, name, rowid",
            (count,),
        )
        at, packages = 0, dict[str, list[str]]()
        for bucket, scope, name, data in found:
            while at < bucket:
                yield at, _packed(at, packages)
                at, packages = at + 1, {}
            packages.setdefault(_joined(scope, name), []).append(data)
        while at < count:
            yield at, _packed(at, packages)
            at, packages = at + 1, {}


def _as_dict(feed: Feed) -> dict[str, Any]:
    return {name: getattr(feed, name) for name in ("name", "file", "digest", "updated", "dated", "rows")}


def _joined(scope: str, name: str) -> str:
    return f"{scope}\0{name}"


def _hash(scope: str, name: str) -> int:
    """Return a number of 63 bits, as SQLite has room for."""
    digest = hashlib.sha256(_joined(scope, name).encode(errors="replace")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _packed(bucket: int, packages: dict[str, list[str]]) -> bytes:
    """Return a row. packages: of each its advisories, which are JSON already."""
    parts = (f"{json.dumps(key)}:[{','.join(texts)}]" for key, texts in packages.items())
    return _with_seal(str(bucket), f"{{{','.join(parts)}}}".encode())


def _sealed(key: str, value: object) -> bytes:
    return _with_seal(key, json.dumps(value).encode())


def _with_seal(key: str, data: bytes) -> bytes:
    packed = zlib.compress(data, 6)
    return _seal(key, packed) + packed


def _seal(key: str, packed: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + packed).digest()[:_SEAL]


def _opened(key: str, row: Any) -> Any:
    """Return what a row has. Raises ValueError for one that is gone, or is not what was written."""
    if row is None or not isinstance(row[0], bytes) or row[0][:_SEAL] != _seal(key, row[0][_SEAL:]):
        raise ValueError(f"its row {key} is not what was written")
    return json.loads(zlib.decompressobj().decompress(row[0][_SEAL:], _LARGEST_ROW))


class Database:
    """A database that was opened. feed: what it is; imported: when it was made; scopes: what it tells of.

    Every method raises NoDatabaseError for one that is damaged, or of another format. Use it as a context
    manager.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        library = _sqlite()
        self._error: type[Exception] = library.Error
        with self._telling():
            # Immutable: a new one takes its place, and nothing is ever written to it.
            self._file: sqlite3.Connection = library.connect(
                f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1", uri=True
            )
            self._file.execute("pragma trusted_schema=off")
            self._file.execute("pragma cell_size_check=on")
            (application,) = self._file.execute("pragma application_id").fetchone()
            (version,) = self._file.execute("pragma user_version").fetchone()
            if application != _APPLICATION or version != FORMAT:
                raise ValueError(f"it has another format than {FORMAT}")
            told = _opened("feed", self._file.execute("select data from feed").fetchone())
            self.imported = float(told["imported"])
            self.scopes = frozenset(map(str, told["scopes"]))
            self._buckets = int(told["buckets"])
            self.feed = Feed(**{name: type(value)(told[name]) for name, value in _as_dict(_ANY).items()})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def find(self, keys: Collection[Key]) -> dict[Key, list[Advisory]]:
        """Return the advisories of packages, of those that have any."""
        found = {}
        with self._telling():
            for scope, name in sorted(keys):
                bucket = _hash(scope, name) % self._buckets
                row = self._file.execute("select data from packages where bucket = ?", (bucket,)).fetchone()
                if rows := _opened(str(bucket), row).get(_joined(scope, name)):
                    found[scope, name] = [Advisory.of(row) for row in rows]
        return found

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (
            self._error,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            MemoryError,
            zlib.error,
        ) as error:
            raise NoDatabaseError(
                f"the database of vulnerabilities {self.path} cannot be read: {error}",
                hint="make it anew: buildstep scan --import FILE",
            ) from error


_ANY = Feed(name="", file="", digest="", updated=0.0, dated="", rows=0)
