"""What signs: a private key, wherever it is, and what is known of its public half."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from buildstep.errors import SigningError
from buildstep.events import Bus
from buildstep.system.text import size_text
from buildstep.trust.keys.public import Algorithm, Message, PublicKey


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key. where: it is, for messages; largest: bytes of the largest message that it signs, 0 for
    any."""

    public: PublicKey
    where: str
    _make: Callable[[Message], bytes] = field(repr=False, compare=False)
    largest: int = 0

    @property
    def algorithm(self) -> Algorithm:
        return self.public.algorithm

    @property
    def fingerprint(self) -> str:
        """Of the public half, as `ssh-keygen -l` shows it; the keyid of its signatures in envelopes."""
        return self.public.fingerprint

    def takes(self, size: int) -> bool:
        """Tell whether a message of so many bytes can be signed."""
        return not self.largest or size <= self.largest

    def sign(self, message: Message) -> bytes:
        """Return the raw signature of a message; see `trust.keys.public`. Raises SigningError."""
        if not self.takes(len(message)):
            raise SigningError(
                f"{self.where} signs no more than {size_text(self.largest)} at once, "
                f"and this is {size_text(len(message))}",
                hint="a key file or a token can sign it",
            )
        return self._make(message)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeySource:
    """What a key is opened with. bus: is told what the user should know, and never shows a password."""

    environ: Mapping[str, str]
    bus: Bus


class Kind(Protocol):
    """A row of `SIGNERS`."""

    def __call__(self, text: str, source: KeySource) -> Signer:
        """Return a signer. text: what follows the name of the row and its colon. Raises SigningError,
        ToolMissing."""
        ...
