"""What is kept on this machine of a store: so that a second build asks less, or nothing.

    STATE/shared/<16 hex>/known.json     what the store had, and how fast it was
    STATE/shared/<16 hex>/tables/<hex>   the table of parts of an output that was fetched or put
    STATE/shared/<16 hex>/records/<hex>  a record that was found, as it is stored; its signature is checked
                                         each time

All of it may be lost. The folder is named by a hash of the store's URL.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildstep.cache.remote.interface import Measured, Wanted
from buildstep.cache.remote.names import record_name
from buildstep.system import sealed
from buildstep.system.files import atomic_write
from buildstep.system.private import private_dir

FOLDER = "shared"
_FORMAT = 1
_DAY = 24 * 3600.0
_SEEN_FOR = _DAY / 2
"""Seconds for which a blob that was seen is taken to be there still: a prune leaves it for a day."""
_BAD_FOR = 7 * _DAY
_RECORD_FOR = _DAY
_MOST = 50_000
_MOST_FILES = 500


@dataclass
class Known:
    """What is known of a store. folder: None keeps nothing. Times are in seconds since the epoch."""

    folder: Path | None
    seen: dict[str, float] = field(default_factory=dict)
    """Blobs by name, and when they were seen in the store."""
    bad: dict[str, float] = field(default_factory=dict)
    """Blobs and records by name that were found damaged, and when."""
    touched: dict[str, float] = field(default_factory=dict)
    """Blobs by name, and when they were last marked as used."""
    measured: Measured = field(default_factory=Measured)

    def __post_init__(self) -> None:
        self._guard = threading.Lock()
        self._changed = False

    @classmethod
    def of(cls, state: Path | None, url: str) -> Known:
        """Return what a state directory has of a store; nothing where that is missing or damaged."""
        if state is None:
            return cls(None)
        found = cls(state / FOLDER / hashlib.sha256(url.encode()).hexdigest()[:16])
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            value = sealed.read(found._file)
            if value["format"] == _FORMAT:
                now = time.time()
                found.seen = _young(value["seen"], now - _SEEN_FOR)
                found.bad = _young(value["bad"], now - _BAD_FOR)
                found.touched = _young(value["touched"], now - _DAY)
                found.measured = Measured(*map(float, value["measured"]))
        return found

    @property
    def _file(self) -> Path:
        assert self.folder is not None
        return self.folder / "known.json"

    def save(self) -> None:
        """Write what has changed. Raises nothing: it is all for speed."""
        if self.folder is None or not self._changed:
            return
        with self._guard, contextlib.suppress(OSError):
            private_dir(self.folder)
            value: dict[str, Any] = {
                "format": _FORMAT, "seen": _newest(self.seen), "bad": _newest(self.bad),
                "touched": _newest(self.touched), "measured": list(self.measured),
            }  # fmt: skip
            sealed.write(self._file, value, durable=False)
            self._changed = False

    def saw(self, names: Iterable[str]) -> None:
        """Note that blobs are in the store."""
        self._set(self.seen, names)

    def is_bad(self, names: Iterable[str]) -> None:
        """Note that blobs or records are damaged."""
        self._set(self.bad, names)

    def is_used(self, names: Iterable[str]) -> None:
        """Note that blobs were marked as used."""
        self._set(self.touched, names)

    def forget(self, names: Iterable[str]) -> None:
        """Note that blobs are not in the store any more, or may not be."""
        with self._guard:
            for name in names:
                self.seen.pop(name, None)
                self.bad.pop(name, None)
            self._changed = True

    def is_fast(self, measured: Measured) -> None:
        """Note how fast the store was in this build; where that says nothing, what was known stays."""
        with self._guard:
            self.measured = Measured(
                measured.rate or self.measured.rate, measured.latency or self.measured.latency
            )
            self._changed = True

    def _set(self, where: dict[str, float], names: Iterable[str]) -> None:
        now = time.time()
        with self._guard:
            where.update((name, now) for name in names)
            self._changed = True

    # -- records and tables ----------------------------------------------------------------------------

    def table(self, digest: str) -> bytes:
        """Return the table of an output; empty if it is not kept."""
        return self._read("tables", digest, float("inf"))

    def keep_table(self, digest: str, data: bytes) -> None:
        self._write("tables", digest, data)

    def record(self, scope: str, wanted: Wanted) -> bytes:
        """Return a record as it is stored; empty if it is not kept, or not any more."""
        return self._read("records", _hash(record_name(scope, wanted)), _RECORD_FOR)

    def keep_record(self, scope: str, wanted: Wanted, data: bytes) -> None:
        """Keep a record; drop it where the data is empty."""
        self._write("records", _hash(record_name(scope, wanted)), data)

    def _read(self, kind: str, name: str, age: float) -> bytes:
        if self.folder is None:
            return b""
        try:
            path = self.folder / kind / name
            if time.time() - path.stat().st_mtime > age:
                return b""
            return path.read_bytes()
        except OSError:
            return b""

    def _write(self, kind: str, name: str, data: bytes) -> None:
        if self.folder is None:
            return
        folder = self.folder / kind
        with contextlib.suppress(OSError):
            if not data:
                (folder / name).unlink(missing_ok=True)
                return
            private_dir(folder)
            with atomic_write(folder / name, durable=False) as stream:
                stream.write(data)
            _limit(folder)


def _limit(folder: Path) -> None:
    """Remove the oldest files of a folder that has many."""
    there = [(item.stat().st_mtime, item.path) for item in os.scandir(folder)]
    for _, path in sorted(there)[:-_MOST_FILES]:
        Path(path).unlink(missing_ok=True)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _young(rows: dict[str, Any], since: float) -> dict[str, float]:
    return {name: float(at) for name, at in rows.items() if since < at}


def _newest(rows: dict[str, float]) -> dict[str, float]:
    if len(rows) <= _MOST:
        return rows
    return dict(sorted(rows.items(), key=lambda row: row[1])[-_MOST:])
