"""Private keys from files: PKCS #8 and the older PEMs of openssl, OpenSSH's own form, and cosign's.

Each with or without a password; see `trust.keys.passwords`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from buildstep.errors import SigningError, ToolMissing
from buildstep.system.private import OTHERS
from buildstep.trust.keys import cosign_key
from buildstep.trust.keys.interface import KeySource, Signer
from buildstep.trust.keys.passwords import WrongPassword, opened
from buildstep.trust.keys.public import (
    HOW_TO_MAKE,
    Message,
    content_of,
    ed25519_key,
    public_key,
    serialization_library,
)


def from_file(text: str, source: KeySource) -> Signer:
    """Return the key of a file. See `Kind`."""
    path = Path(text)
    serialization_library()
    data = content_of(path)
    signer, locked = _signer(data, f"the key {path}", str(path), source)
    if not locked:
        _look_at_mode(path, source)
    return signer


def from_variable(text: str, source: KeySource) -> Signer:
    """Return the key whose file's content is in a variable. See `Kind`."""
    serialization_library()
    if not (data := source.environ.get(text, "").strip()):
        raise SigningError(f"the variable {text} holds no key", hint="is it set in this job?")
    return from_text(data.encode("utf-8", "surrogateescape") + b"\n", f"${text}", source)


def from_text(data: bytes, where: str, source: KeySource) -> Signer:
    """Return a key from the content of its file. where: it came from, for errors. Raises as `Kind`."""
    return _signer(data, f"the key in {where}", where, source)[0]


def ed25519_signer(text: str, source: KeySource) -> Signer:
    """Return the key of a file, which has to be an Ed25519 one. Raises as `from_file`."""
    signer = from_file(text, source)
    ed25519_key(signer.public, signer.where)
    return signer


def private_signer(key: Any, where: str) -> Signer:
    """Return a private key of the package cryptography as a signer. Raises SigningError for other kinds."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding

    public = public_key(key.public_key(), where)

    def make(message: Message) -> bytes:
        signature: bytes
        match public.algorithm:
            case "ed25519":
                signature = key.sign(message)
            case "ecdsa-p256":
                signature = key.sign(message, ec.ECDSA(hashes.SHA256()))
            case "rsa":
                signature = key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return signature

    return Signer(public, where, make)


def _signer(data: bytes, what: str, where: str, source: KeySource) -> tuple[Signer, bool]:
    """Return a signer, and whether a password was needed for it."""
    if cosign_key.is_cosign(data):
        return private_signer(opened(what, source, lambda word: _of_cosign(data, word, where)), where), True
    try:
        key = _load(data, None, where)
    except WrongPassword:
        return private_signer(opened(what, source, lambda word: _load(data, word, where)), where), True
    return private_signer(key, where), False


def _of_cosign(data: bytes, password: bytes, where: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    inside = cosign_key.opened(data, password, where)
    try:
        return serialization_library().load_der_private_key(inside, password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise SigningError(f"{where} holds a key of a kind that is not known", hint=HOW_TO_MAKE) from error


def _load(data: bytes, password: bytes | None, where: str) -> Any:
    """Return the key of a PEM. Raises WrongPassword where it has one, and it is another."""
    serialization = serialization_library()
    from cryptography.exceptions import UnsupportedAlgorithm

    openssh = b"BEGIN OPENSSH PRIVATE KEY" in data
    load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    try:
        return load(data, password=password or None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        text = str(error).lower()
        if "bcrypt" in text:
            raise ToolMissing(
                f"{where} has a passphrase of OpenSSH, which needs the Python package bcrypt",
                hint="pip install 'buildstep[signing]'",
            ) from error
        # A TypeError, of older versions another text, is how cryptography says that a password is missing; so
        # where one is given, there is a key with a password, and whatever is wrong is the password.
        missing = isinstance(error, TypeError) or "password-protected" in text
        if missing or (password and isinstance(error, ValueError)):
            raise WrongPassword from None
        raise SigningError(f"{where} is not a private key", hint=_hint(data)) from error


def _hint(data: bytes) -> str:
    if b"PUBLIC KEY" in data or data.startswith((b"ssh-", b"ecdsa-", b"untrusted comment: minisign public")):
        return "it holds a public key: give the file of the private one"
    if b"minisign encrypted secret key" in data:
        return f"keys of minisign are in a form of its own; {HOW_TO_MAKE} with a .minisign.pub"
    return HOW_TO_MAKE


def _look_at_mode(path: Path, source: KeySource) -> None:
    """Warn where others can read a private key."""
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode) and mode & OTHERS:
        source.bus.note(
            f"others can read or change the private key {path} (mode {stat.S_IMODE(mode):04o}): "
            f"chmod 600 {path}",
            level="warning",
        )
