"""The private key file that `cosign generate-key-pair` writes: a PKCS #8 key in a box that a password opens.

PEM with the base64 of a JSON object: {"kdf": {"name": "scrypt", "params": {"N", "r", "p"}, "salt"}, "cipher":
{"name": "nacl/secretbox", "nonce"}, "ciphertext"}.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from buildstep.errors import SigningError
from buildstep.trust.keys import secretbox
from buildstep.trust.keys.passwords import WrongPassword

LABELS = (b"ENCRYPTED SIGSTORE PRIVATE KEY", b"ENCRYPTED COSIGN PRIVATE KEY")
"""What the PEM says that it is; the second one is of cosign before version 2."""

_MOST_MEMORY = 1 << 30
"""Bytes that the key derivation may take: whoever wrote the file says how much it wants."""


def is_cosign(data: bytes) -> bool:
    """Tell whether the content of a key's file is of this form."""
    return any(b"-----BEGIN " + label in data for label in LABELS)


def opened(data: bytes, password: bytes, where: str) -> bytes:
    """Return the PKCS #8 key (DER) of a file. Raises WrongPassword, and SigningError for what is no such
    file."""
    try:
        lines = [line for line in data.decode("ascii").splitlines() if line and not line.startswith("-----")]
        value = json.loads(base64.b64decode("".join(lines), validate=True))
        kdf, cipher = value["kdf"], value["cipher"]
        if kdf["name"] != "scrypt" or cipher["name"] != "nacl/secretbox":
            raise ValueError(f"{kdf['name']} and {cipher['name']}")
        key = _derived(password, base64.b64decode(kdf["salt"], validate=True), kdf["params"])
        nonce = base64.b64decode(cipher["nonce"], validate=True)
        box = base64.b64decode(value["ciphertext"], validate=True)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise SigningError(
            f"{where} is a damaged key file of cosign", detail=str(error), hint="take its copy from a backup"
        ) from error
    inside = secretbox.open_box(key, nonce, box)
    if inside is None:
        raise WrongPassword
    return inside


def _derived(password: bytes, salt: bytes, params: Any) -> bytes:
    n, r, p = (int(params[name]) for name in ("N", "r", "p"))
    memory = 128 * r * (n + p + 2)
    if min(n, r, p) < 1 or memory > _MOST_MEMORY or p > 16:
        raise ValueError(f"its key derivation wants {memory} bytes")
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=memory + (1 << 20), dklen=secretbox.KEY)
