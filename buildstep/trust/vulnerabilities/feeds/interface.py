"""The contract of a form in which advisories come, and what a file of one is read through."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol, cast

from buildstep.errors import ImageError, UsageError
from buildstep.system.text import size_text
from buildstep.trust.vulnerabilities.model import Advisory

if TYPE_CHECKING:
    from buildstep.formats.decompress import Decompressed

LARGEST = 8 << 30
"""Bytes of a file once it is expanded; the largest real one (npm) has about 1 GB."""


class Row(NamedTuple):
    """An advisory of one package in one scope."""

    scope: str
    name: str
    advisory: Advisory


@dataclass(kw_only=True)
class Reading:
    """A file as it is read. rows: all of it, once. The rest is known when they have ended.

    name: of the feed; updated: when its content was current, 0 where the file does not say; only: scopes that
    it is about, where it names others besides; skipped: what was not understood, with how often.
    """

    name: str
    rows: Iterator[Row]
    updated: float = 0.0
    dated: str = ""
    only: Callable[[str], bool] = lambda _scope: True
    skipped: dict[str, int] = field(default_factory=dict)

    def skip(self, what: str) -> None:
        """Count something that was not understood."""
        self.skipped[what] = self.skipped.get(what, 0) + 1


class Form(Protocol):
    """A form of advisories."""

    def fits(self, head: bytes, name: str) -> bool:
        """Tell whether a file has this form, by its first bytes, expanded, and its name."""
        ...

    def read(self, path: Path) -> Reading:
        """Return what reads a file. The rows raise UsageError for one that is not of this form."""
        ...


@contextlib.contextmanager
def expanded(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, compressed with gzip, xz, zstd, bzip2 or not at all; no more than LARGEST is read of
    it."""
    from buildstep.formats.decompress import Decompressed

    try:
        with path.open("rb") as stream, Decompressed(stream, ahead=False) as content:
            yield cast(IO[bytes], _Limited(content, path))
    except ImageError as error:
        raise UsageError(f"{path}: {error.message}", hint="download it anew") from error


class _Limited:
    def __init__(self, content: Decompressed, path: Path) -> None:
        self._content = content
        self._path = path
        self._left = LARGEST

    def read(self, size: int) -> bytes:
        data = self._content.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise UsageError(f"{self._path} expands to more than {size_text(LARGEST)}")
        return data
