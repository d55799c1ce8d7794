"""The contract of the shared cache: what is kept in it, and what can be said of it.

A record says that from some inputs some outputs were made; outputs are named by their digests. Records are
found by kind and key, bytes by digest. Who may write to a store could put anything there, so a record counts
only with a signature that the policy accepts, and bytes only with the digest that such a record gives them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from buildstep.errors import StoreError

Kind = Literal["base", "packages", "layer", "answer", "parts"]
KINDS: tuple[Kind, ...] = ("base", "packages", "layer", "answer", "parts")
"""base: the import of a base image. packages: a layer of installed packages. layer: facts of a compressed
layer (digest, diff_id, size), without its bytes. answer: what packages resolve to. parts: bytes of compressed
layers."""

FORMAT = 1
"""Of records, keys and names; another one is not looked at."""

Wanted = tuple[Kind, str]
"""Kind and key of a record."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_SCOPE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/@+#-]{0,199}")


class Unusable(StoreError):
    """A record, or bytes, that must not be used: damaged, altered, or signed by nobody who may."""


class Gone(StoreError):
    """Bytes that a record names and the store does not have: then the record is a miss."""


class TooSlow(StoreError):
    """What did not come within its time."""


class Stopped(StoreError):
    """What nobody wants any more."""


def is_digest(text: object) -> bool:
    """Tell whether this is a hex SHA-256, as keys are too."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def is_name(text: object) -> bool:
    """Tell whether this can be the name of an output."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def is_scope(text: object) -> bool:
    """Tell whether this can be the name of a scope, such as `main` or `branch/fix-1`."""
    return isinstance(text, str) and _SCOPE.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """A file that a record gives.

    name: by which the caller knows it; digest: hex SHA-256 of its bytes; media: their type. parts: digest of
    the table that says which parts it is made of (`parts`); data: all of its bytes, where they are few. Both
    are filled in by `SharedStore.put`.
    """

    name: str
    digest: str
    size: int
    media: str = "application/octet-stream"
    parts: str = ""
    data: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What a build had made of some inputs.

    inputs: what the key was made of, in clear, so that a miss can be explained; facts: whatever else the kind
    has to say, JSON values; seconds: what it cost to make; builder: who made it, in words; made_at: seconds
    since the epoch. slot: the same for all versions of a thing, such as a hash of its name: the newest record
    of a slot is what a new one is compared with; empty for none. scope and signer (the name of a key in the
    policy, empty if nobody signed it) are those of the store: what a caller gives is not looked at.
    """

    kind: Kind
    key: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[Output, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    builder: str = ""
    made_at: float = 0.0
    slot: str = ""
    scope: str = ""
    signer: str = ""

    @property
    def wanted(self) -> Wanted:
        return self.kind, self.key

    def output(self, name: str) -> Output | None:
        """Return an output by its name."""
        return next((output for output in self.outputs if output.name == name), None)


class Seed(NamedTuple):
    """A file on this machine that may have parts of what is fetched. digest: hex SHA-256, empty if that is
    not known: then the file is hashed first."""

    path: Path
    digest: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Which store, and how.

    url: as `files.open_storage` takes it, or `registry:HOST/REPOSITORY`. scope: whose records are written,
    and read before those of `main`. policy: a file (`policy`); key: a file with a private key, which signs
    what is written. trust: `policy`, or `release`: only records signed by keys that the policy marks for
    releases. state: a directory that may be written to, such as a pool's, where is kept what is known of
    the store; None: nothing is kept. http: limits of calls that are not the usual ones.
    """

    url: str
    scope: str = "main"
    policy: Path | None = None
    key: Path | None = None
    trust: str = "policy"
    state: Path | None = None
    http: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Facts:
    """What a store was used for so far."""

    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    hits: int = 0
    misses: int = 0


class Measured(NamedTuple):
    """How fast a store is: bytes per second, and seconds until a small answer is here. 0: not known yet."""

    rate: float = 0.0
    latency: float = 0.0

    def seconds_for(self, size: int) -> float:
        """Return how long so many bytes will take; 0 where nothing is known."""
        return self.latency + size / self.rate if self.rate else self.latency
