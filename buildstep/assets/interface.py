"""The contracts of assets: a store that holds them, and a register that maps host patterns to services."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

from buildstep.assets.names import Name
from buildstep.errors import BuildstepError, ExitCode, StoreError
from buildstep.events import Bus
from buildstep.net.request import HttpOptions


class AssetTaken(StoreError):
    """There is an asset of this service and version already, and it is another one."""


class NoStore(StoreError):
    """There is nothing where a store should be; a push makes it."""


class RegisterError(BuildstepError):
    """A register that cannot be reached, that refuses us, or that holds what is no mapping."""

    exit_code = ExitCode.REGISTER


class Unmade(RegisterError):
    """There is no register there yet; the first mapping makes it."""


class Incomplete(BuildstepError):
    """Some of what was asked for was done, and some was not; the report has told which."""

    exit_code = ExitCode.INCOMPLETE


@dataclass(frozen=True, kw_only=True, slots=True)
class Asset:
    """An asset in a listing. size: in bytes; modified: seconds since the epoch, by the store's clock; etag:
    the store's name for these bytes, where it has one: it says that two answers are of the same object."""

    name: Name
    size: int
    modified: float = 0.0
    etag: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Details:
    """What is told of an asset's bytes. size: in bytes.

    sha256: hex, empty where nobody recorded it, as with daybook; signature: base64 of an Ed25519 signature,
    empty for none.
    """

    sha256: str
    size: int
    signature: str = ""


_SHA256 = re.compile(r"(?:[0-9a-f]{64})?")


def told_details(sha256: str, size: int, signature: str) -> Details:
    """Return what a store tells of an asset, which anybody may have written. Raises ValueError for what
    none can be: it would be shown to people, and looked for under its name."""
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"{sha256[:80]!r} is no sha256")
    if size < 0:
        raise ValueError(f"{size} is no size")
    if not (signature.isascii() and signature.isprintable()):
        raise ValueError(f"{signature[:80]!r} is no signature")
    return Details(sha256=sha256, size=size, signature=signature)


class Incoming(Protocol):
    """The bytes of an asset on their way. details: known before the first byte."""

    details: Details

    def read(self, size: int = -1) -> bytes:
        """Return some bytes, at most `size`; empty at the end. Raises StoreError."""
        ...


class AssetStore(Protocol):
    """Where assets lie: flat, each under `Name.file`. One class for each kind of store.

    Calls may be made from several threads. They raise StoreError, `files.interface.Missing` for an asset that
    is not there, ReadOnly where nothing may be written; what another try may not meet has been tried again.
    """

    scheme: ClassVar[str]

    @property
    def url(self) -> str:
        """As `open_assets` takes it; it holds no password."""
        ...

    @property
    def at_once(self) -> int:
        """Calls that are worth making at the same time."""
        ...

    def list(self, service: str = "") -> Iterator[Asset]:
        """Yield the assets of a service, of all without a name, in no order; what is no asset is left out.

        Versions with hyphens are among them: who does not want them leaves them out. Raises
        files.interface.Unlistable where that cannot be known.
        """
        ...

    def details(self, name: Name) -> Details:
        """Return what is told of an asset. Raises Missing."""
        ...

    def open(self, name: Name) -> AbstractContextManager[Incoming]:
        """Yield the bytes of an asset; one whose connection breaks off is gone on with where it stopped."""
        ...

    def put(self, name: Name, path: Path, details: Details, *, replace: bool = False) -> bool:
        """Store an asset, complete before it can be seen. Return False if it was there already, the same.

        Raises AssetTaken if another one is there, unless it is to be replaced.
        """
        ...

    def delete(self, name: Name) -> None:
        """Remove an asset, and what is told of it. Raises Missing."""
        ...

    def make_index(self) -> int:
        """Make anew what readers need who cannot list the store; return how many assets are in it.

        Raises UsageError where every reader can.
        """
        ...

    def interrupt(self) -> None:
        """Make calls of other threads fail soon, where they may wait for long: nobody wants what they do."""
        ...

    def finish(self) -> None:
        """Bring what the store knows of all assets together up to date with what was put and deleted by this
        object: an index for readers who cannot list it. Nothing to do for most stores."""
        ...


class Versioned(NamedTuple):
    """The services of one pattern. version: what `swap` compares; faults: what the mapping holds that is no
    name of a service, a line each: written anew, it has them no more."""

    services: tuple[str, ...]
    version: str
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Mappings:
    """All mappings of a register. services: by pattern, sorted; index: what `wait` goes on from; faults: what
    the register holds that is no mapping or no name of a service, a line each: it is not in `services`."""

    services: Mapping[str, tuple[str, ...]]
    index: str
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisterAccess:
    """What a register may use. options: of its kind, by name; where one is not given, the variables of
    `environ` count that others of its kind know, such as CONSUL_HTTP_TOKEN. http: limits of its calls."""

    environ: Mapping[str, str]
    bus: Bus
    options: Mapping[str, str] = field(default_factory=dict)
    http: HttpOptions = field(default_factory=HttpOptions)


class Register(Protocol):
    """Where mappings are kept. One class for each kind. Calls raise RegisterError.

    What a register does not let us read is an error, never "no mappings".
    """

    scheme: ClassVar[str]

    @property
    def url(self) -> str:
        """As `open_register` takes it; it holds no token."""
        ...

    def read(self) -> Mappings:
        """Return all mappings. Raises Unmade for a register that was never made."""
        ...

    def wait(self, index: str, seconds: float) -> Mappings:
        """Return all mappings as soon as they are not those of this index, or after some seconds."""
        ...

    def load(self, pattern: str) -> Versioned | None:
        """Return the services of a pattern; None if it has no mapping."""
        ...

    def swap(self, pattern: str, services: tuple[str, ...] | None, version: str | None) -> bool:
        """Set the services of a pattern if it still has this version, None: no mapping.

        services None: remove it. Return False, and change nothing, if it has another version by now.
        """
        ...
