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
FORMAT = 1
_APPLICATION = 0x62737476
_LARGEST_ROW = 256 << 20
_SEAL = 16

_TABLES = """
create table feed (name text primary key, value) without rowid;
create table scope (name text primary key) without rowid;
create table package (scope text, name text, data blob, primary key (scope, name)) without rowid;
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
            "create table row (scope text, name text, data text);"
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
            "insert into row values (?, ?, ?)",
            (
                (scope, name, json.dumps(advisory.row(), separators=(",", ":"), ensure_ascii=True))
                for scope, name, advisory in reading.rows
            ),
        )
        feed = Feed(
            name=reading.name, file=source.name, digest=digest, updated=reading.updated, dated=reading.dated
        )
        with contextlib.closing(_sqlite().connect("")) as target:
            target.executescript(_TABLES)
            target.execute(f"pragma application_id={_APPLICATION}")
            target.execute(f"pragma user_version={FORMAT}")
            scopes: set[str] = set()
            count = 0
            for scope, name, data, number in self._grouped(reading):
                target.execute("insert into package values (?, ?, ?)", (scope, name, data))
                scopes.add(scope)
                count += number
            target.executemany("insert into scope values (?)", [(scope,) for scope in sorted(scopes)])
            told = {
                "name": feed.name, "file": feed.file, "digest": feed.digest, "updated": feed.updated,
                "dated": feed.dated, "rows": count, "imported": time.time(),
            }  # fmt: skip
            target.executemany("insert into feed values (?, ?)", sorted(told.items()))
            target.commit()
            data = target.serialize()
        path = folder / f"{feed.name}{SUFFIX}"
        with atomic_write(path, mode=0o644) as stream:
            stream.write(data)
        return path, Feed(**{**_as_dict(feed), "rows": count})

    def _grouped(self, reading: Reading) -> Iterator[tuple[str, str, bytes, int]]:
        """Yield the advisories of each package, sealed, with how many they are."""
        self._rows.execute("create index sorted on row (scope, name)")
        found = self._rows.execute("select scope, name, data from row order by scope, name, rowid")
        key, texts = ("", ""), list[str]()
        for scope, name, text in found:
            if (scope, name) != key and texts:
                yield *key, _sealed(*key, texts), len(texts)
                texts = []
            key = (scope, name)
            if reading.only(scope):
                texts.append(text)
        if texts:
            yield *key, _sealed(*key, texts), len(texts)


def _as_dict(feed: Feed) -> dict[str, Any]:
    return {name: getattr(feed, name) for name in ("name", "file", "digest", "updated", "dated", "rows")}


def _sealed(scope: str, name: str, texts: list[str]) -> bytes:
    packed = zlib.compress(f"[{','.join(texts)}]".encode(), 6)
    return _seal(scope, name, packed) + packed


def _seal(scope: str, name: str, packed: bytes) -> bytes:
    return hashlib.sha256(f"{scope}\0{name}\0".encode() + packed).digest()[:_SEAL]


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
            told = dict(self._file.execute("select name, value from feed"))
            self.imported = float(told.pop("imported"))
            self.feed = Feed(**{name: type(value)(told[name]) for name, value in _as_dict(_ANY).items()})
            self.scopes = frozenset(str(row[0]) for row in self._file.execute("select name from scope"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def find(self, keys: Collection[Key]) -> dict[Key, list[Advisory]]:
        """Return the advisories of packages, of those that have any."""
        found = {}
        with self._telling():
            for scope, name in sorted(keys):
                row = self._file.execute(
                    "select data from package where scope = ? and name = ?", (scope, name)
                ).fetchone()
                if row is not None:
                    found[scope, name] = self._opened(scope, name, row[0])
        return found

    def _opened(self, scope: str, name: str, data: object) -> list[Advisory]:
        if not isinstance(data, bytes) or data[:_SEAL] != _seal(scope, name, data[_SEAL:]):
            raise ValueError(f"the row of {name} is not what was written")
        text = zlib.decompressobj().decompress(data[_SEAL:], _LARGEST_ROW)
        return [Advisory.of(row) for row in json.loads(text)]

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (self._error, ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise NoDatabaseError(
                f"the database of vulnerabilities {self.path} cannot be read: {error}",
                hint="make it anew: buildstep scan --import FILE",
            ) from error


_ANY = Feed(name="", file="", digest="", updated=0.0, dated="", rows=0)
