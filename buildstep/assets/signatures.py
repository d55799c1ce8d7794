"""What is signed of an asset: its bytes, by their sha256, and its name, so that none passes for another."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from buildstep.assets.interface import Details
from buildstep.assets.names import Name
from buildstep.errors import SigningError
from buildstep.trust.keys.interface import Signer
from buildstep.trust.keys.public import PublicKey, ed25519_key, public_of


@dataclass(frozen=True, slots=True)
class Trusted:
    """Public keys, of which one must have signed."""

    keys: tuple[PublicKey, ...]

    @property
    def fingerprints(self) -> frozenset[str]:
        return frozenset(key.fingerprint for key in self.keys)

    def check(self, message: bytes, signature: str, what: str) -> str:
        """Return the fingerprint of the key that has signed a message.

        signature: in base64. Raises SigningError where it is missing, or none of these keys made it. what: is
        signed, for the error.
        """
        if not signature:
            raise SigningError(f"{what} is not signed", hint="push it again with --key and --replace")
        try:
            raw = base64.b64decode(signature, validate=True)
        except (binascii.Error, ValueError):
            raise SigningError(f"the signature of {what} is no base64") from None
        for key in self.keys:
            if key.verify(message, raw):
                return key.fingerprint
        raise SigningError(
            f"{what} is not signed by a key that is trusted here",
            detail=f"trusted: {', '.join(key.fingerprint for key in self.keys)}",
            hint="it was signed with another key, or altered since",
        )


def trusted_of(paths: Iterable[Path]) -> Trusted:
    """Return the public keys of some files, one in each. Raises SigningError, ToolMissing."""
    return Trusted(tuple(ed25519_key(public_of(path), str(path)) for path in paths))


def message(name: Name, sha256: str) -> bytes:
    """Return the bytes that a signature of an asset is made over: three lines, the first the same for all."""
    return f"buildstep asset 1\n{name.file}\n{sha256}\n".encode()


def signed(name: Name, details: Details, signer: Signer) -> Details:
    """Return the details with a signature."""
    signature = signer.sign(message(name, details.sha256))
    return replace(details, signature=base64.b64encode(signature).decode())


def check(name: Name, details: Details, trusted: Trusted | None) -> str:
    """Return the fingerprint of the key that has signed an asset; empty where no key is asked for.

    details: with the sha256 that its bytes have been compared with, or will be. Raises SigningError.
    """
    if trusted is None:
        return ""
    return trusted.check(message(name, details.sha256), details.signature, name.file)
