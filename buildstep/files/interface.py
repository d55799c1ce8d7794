"""The contract of a storage: named blobs, and a few names whose value can change.

A storage knows nothing of file lists or digests. What makes a store of it (packs, lists, leases, garbage
collection) is written once, for every storage: see `content`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

from buildstep.errors import StoreError
from buildstep.events import Bus
from buildstep.net.request import HttpOptions

_PART = r"[A-Za-z0-9_~][A-Za-z0-9._~+-]*"
_NAME = re.compile(f"{_PART}(/{_PART})*")


class Missing(StoreError):
    """There is no blob of that name."""


class Damaged(StoreError):
    """What is stored is not what its name says. name: of the blob."""

    def __init__(self, message: str, *, name: str, hint: str = "") -> None:
        super().__init__(
            message, hint=hint or "`buildstep files verify --repair-from STORE` gets it from another store"
        )
        self.name = name


class ReadOnly(StoreError):
    """A storage that cannot be written to, or that we may not write to."""


class Unlistable(StoreError):
    """A storage that cannot say what it holds, such as a plain web server."""


def is_name(text: str) -> bool:
    """Tell whether this can be the name of a blob."""
    return _NAME.fullmatch(text) is not None


def checked(name: str) -> str:
    """Return a name. Raises StoreError for one that no blob can have, such as `../x`: names are also read
    from what is stored, which somebody else may have written."""
    if not is_name(name):
        raise StoreError(f"{name[:100]!r} is no name of a blob", hint="did somebody alter the store?")
    return name


def checked_under(under: str) -> str:
    """Return what names are to begin with: nothing, or whole parts of a name. Raises StoreError."""
    if under and checked(under.removesuffix("/")) == under:
        raise StoreError(f"{under!r} does not end with a slash")
    return under


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """What a storage may use. endpoint: of an S3 store that is not Amazon's; http: limits of its calls."""

    environ: Mapping[str, str]
    bus: Bus
    http: HttpOptions = field(default_factory=HttpOptions)
    endpoint: str = ""


class Item(NamedTuple):
    """A blob in a listing. size: in bytes; modified: seconds since the epoch, by the storage's clock."""

    name: str
    size: int
    modified: float


class Versioned(NamedTuple):
    """The value of a name that can change. version: what `swap` compares."""

    data: bytes
    version: str


class Storage(Protocol):
    """Where a store lies. One file each.

    Names are relative, of the characters `A-Z a-z 0-9 . _ - ~ + /`, and no part of one begins with `.`, `-`
    or `+`: see `checked`. A blob never changes: whoever writes a name again writes the same. What is below
    `tmp/` is the storage's own, and in no listing. Calls may be made from several threads. They raise
    StoreError, its subclass Missing where a name has no blob, and ReadOnly where nothing may be written; an
    error that another try may not meet is `retryable`, and has been tried again already.
    """

    scheme: ClassVar[str]

    @property
    def url(self) -> str:
        """As `open_storage` takes it; it holds no password."""
        ...

    @property
    def writable(self) -> bool:
        """Whether it can be written to, as far as is known without trying it."""
        ...

    @property
    def root(self) -> Path | None:
        """The directory, where a blob is a file of this machine: its files can be cloned or linked."""
        ...

    @property
    def at_once(self) -> int:
        """Calls that are worth making at the same time."""
        ...

    def exists(self, names: Collection[str]) -> set[str]:
        """Return those names that have a blob."""
        ...

    def list(self, under: str) -> Iterator[Item]:
        """Yield the blobs whose names begin so, in no order. under: empty, or ends with a slash.

        Raises Unlistable where that cannot be known.
        """
        ...

    def read(self, name: str, start: int = 0, count: int | None = None) -> bytes:
        """Return a blob, or `count` bytes of it from `start` on; a negative start counts from the end.

        Fewer bytes come where the blob ends.
        """
        ...

    def fetch(self, name: str, target: Path) -> None:
        """Write a blob to a new file on this machine, without holding it in memory."""
        ...

    def write(self, name: str, data: bytes | Path) -> bool:
        """Store a blob, durable and complete before it can be seen. Return False if it was there already,
        which is then left as it is. data: its bytes, or a file on this machine, which stays."""
        ...

    def spool(self) -> AbstractContextManager[Path]:
        """Return an empty directory for files that will be written, removed at the end of the block, or later
        if the process is killed; on the storage's own file system where it has one."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Remove blobs; one that is not there is no error."""
        ...

    def load(self, name: str) -> Versioned | None:
        """Return the value of a name that can change; None if it has none."""
        ...

    def swap(self, name: str, data: bytes | None, version: str | None) -> bool:
        """Set the value of a name if it still has this version, None: no value. data None: remove it.

        Return False, and change nothing, if it has another version by now.
        """
        ...
