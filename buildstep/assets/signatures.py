"""What is signed of an asset: its bytes, by their sha256, and its name, so that none passes for another."""

from __future__ import annotations

from dataclasses import replace

from buildstep.assets.interface import Details
from buildstep.assets.names import Name
from buildstep.trust.ed25519 import Signer, Trusted


def message(name: Name, sha256: str) -> bytes:
    """Return the bytes that a signature of an asset is made over: three lines, the first the same for all."""
    return f"buildstep asset 1\n{name.file}\n{sha256}\n".encode()


def signed(name: Name, details: Details, signer: Signer) -> Details:
    """Return the details with a signature."""
    return replace(details, signature=signer.sign(message(name, details.sha256)))


def check(name: Name, details: Details, trusted: Trusted | None) -> str:
    """Return the fingerprint of the key that has signed an asset; empty where no key is asked for.

    details: with the sha256 that its bytes have been compared with, or will be. Raises SigningError.
    """
    if trusted is None:
        return ""
    return trusted.check(message(name, details.sha256), details.signature, name.file)
