"""What a check of a signature gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from buildstep.trust.keys.public import PublicKey
from buildstep.trust.signatures.content import Content


@dataclass(frozen=True, slots=True)
class Checked:
    """What a file of signatures says. signers: those of the given keys that have made a good one; claimed:
    what the signatures say of the keys that made them, which nobody has proved: fingerprints, or how else a
    format names a key; why: what speaks against each that is not good, for messages."""

    signers: tuple[PublicKey, ...]
    claimed: tuple[str, ...]
    why: tuple[str, ...] = ()


class Check(Protocol):
    """A row of `CHECKS`."""

    def __call__(self, signature: bytes, content: Content, keys: Sequence[PublicKey]) -> Checked:
        """Check what a file of signatures, of at most `LARGEST` bytes, says of some content. Raises
        SigningError where it is not of the format."""
        ...


LARGEST = 1 << 20
"""Bytes of a file of signatures; a larger one is something else."""
