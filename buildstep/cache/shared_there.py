"""What a shared cache is known to have, so that nobody asks for it, or uploads it, again.

state/shared/NAME.there   a line for each record: when it was there last, its kind, its key

A cache may lose what it had; so what is here counts for an hour.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final

from buildstep.cache.blob_files import name_of
from buildstep.system.files import atomic_write
from buildstep.system.private import private_dir

_HOUR: Final = 3600.0
_MOST: Final = 2000


def _path(state: Path, url: str, scope: str) -> Path:
    return state / "shared" / f"{name_of(f'{url} {scope}')[:32]}.there"


def known(state: Path, url: str, scope: str) -> set[tuple[str, str]]:
    """Return kind and key of the records that a store is known to have."""
    return {(kind, key) for kind, key, _ in _rows(_path(state, url, scope))}


def note(state: Path, url: str, scope: str, wanted: tuple[str, str]) -> None:
    """Note that a store has a record. Where that cannot be kept, it is asked again."""
    path = _path(state, url, scope)
    with contextlib.suppress(OSError):
        private_dir(path.parent)
        rows = [row for row in _rows(path) if row[:2] != wanted][-_MOST + 1 :]
        with atomic_write(path, durable=False) as stream:
            lines = [*rows, (*wanted, time.time())]
            stream.write("".join(f"{int(at)} {kind} {key}\n" for kind, key, at in lines).encode())


def _rows(path: Path) -> list[tuple[str, str, float]]:
    found = []
    with contextlib.suppress(OSError, ValueError):
        for row in path.read_text().splitlines():
            at, kind, key = row.split(" ")
            if 0 <= time.time() - float(at) < _HOUR:
                found.append((kind, key, float(at)))
    return found
