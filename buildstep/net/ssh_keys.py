"""Sign bytes with an ssh RSA key: from its file, or by an ssh-agent (RFC 8332, draft-miller-ssh-agent)."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
from collections.abc import Callable, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

from buildstep.errors import SigningError, ToolMissing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_AGENT_SECONDS = 20.0  # an agent may ask its user to confirm
_REQUEST_IDENTITIES, _IDENTITIES_ANSWER = 11, 12
_SIGN_REQUEST, _SIGN_RESPONSE = 13, 14
_RSA_SHA2_256 = 2
_MAX_MESSAGE = 1 << 20

Signer = Callable[[bytes], bytes]
"""Makes the RSA PKCS#1 v1.5 signature, with SHA-256, of some bytes."""


def http_signature(user: str, signer: Signer, *, now: Callable[[], str] | None = None) -> dict[str, str]:
    """Return the headers of a call made as this user: the date, signed (HTTP-Signature, rsa-sha256)."""
    date = now() if now else formatdate(usegmt=True)
    signature = base64.b64encode(signer(f"date: {date}".encode())).decode()
    value = f'Signature keyId="{user}",algorithm="rsa-sha256",signature="{signature}"'
    return {"Date": date, "Authorization": value}


def file_signer(path: Path) -> Signer:
    """Return a signer with the private key of a file, in OpenSSH or PEM format, without a passphrase.

    Raises SigningError, and ToolMissing without the package cryptography.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import padding, rsa
    except ImportError as error:
        raise ToolMissing(
            "signing with a key file needs the Python package cryptography",
            hint="pip install 'buildstep[signing]', or load the key into an ssh-agent",
        ) from error
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SigningError(f"cannot read the ssh key {path}: {error.strerror}") from error
    openssh = b"BEGIN OPENSSH PRIVATE KEY" in data
    load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    try:
        key = load(data, password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        # A TypeError is cryptography's way to say that a passphrase is missing.
        if isinstance(error, TypeError) or "password" in str(error).lower():
            raise SigningError(
                f"the ssh key {path} has a passphrase", hint="load it into an ssh-agent: ssh-add"
            ) from error
        raise SigningError(f"{path} is not a private ssh key", hint="give the file without .pub") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise SigningError(
            f"the ssh key {path} is not an RSA key", hint="IMGAPI servers accept RSA keys only"
        )
    private: RSAPrivateKey = key
    return lambda data: private.sign(data, padding.PKCS1v15(), hashes.SHA256())


def agent_signer(environ: Mapping[str, str], *, fingerprint: str = "") -> Signer:
    """Return a signer that uses the ssh-agent of SSH_AUTH_SOCK.

    fingerprint: which of its RSA keys, as `SHA256:...` or in MD5; by default the first one.
    Raises SigningError.
    """
    address = environ.get("SSH_AUTH_SOCK", "")
    if not address:
        raise SigningError(
            "there is no ssh-agent: SSH_AUTH_SOCK is not set", hint="name a key file, or start an agent"
        )
    blob = _find_key(address, fingerprint)

    def sign(data: bytes) -> bytes:
        request = bytes([_SIGN_REQUEST]) + _string(blob) + _string(data) + struct.pack(">I", _RSA_SHA2_256)
        kind, body = _query(address, request)
        if kind != _SIGN_RESPONSE:
            raise SigningError("the ssh-agent refused to sign", hint="is the key locked, or to be confirmed?")
        inner, _ = _take(body)
        algorithm, rest = _take(inner)
        if algorithm != b"rsa-sha2-256":
            raise SigningError(
                f"the ssh-agent signed with {algorithm.decode(errors='replace')}, not rsa-sha2-256",
                hint="is the agent older than OpenSSH 7.2?",
            )
        return _take(rest)[0]

    return sign


def fingerprints(blob: bytes) -> tuple[str, str]:
    """Return a public key's SHA-256 and MD5 fingerprints, as ssh-keygen -l prints them."""
    sha = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    md5 = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    return f"SHA256:{sha}", ":".join(md5[i : i + 2] for i in range(0, 32, 2))


def _find_key(address: str, fingerprint: str) -> bytes:
    kind, body = _query(address, bytes([_REQUEST_IDENTITIES]))
    if kind != _IDENTITIES_ANSWER or len(body) < 4:
        raise SigningError("the ssh-agent does not list its keys")
    count, rest = int.from_bytes(body[:4]), body[4:]
    wanted = fingerprint.removeprefix("MD5:")
    for _ in range(min(count, 1000)):
        blob, rest = _take(rest)
        _, rest = _take(rest)
        if _take(blob)[0] == b"ssh-rsa" and (not wanted or wanted in fingerprints(blob)):
            return blob
    which = f"the RSA key {fingerprint}" if fingerprint else "an RSA key"
    raise SigningError(
        f"the ssh-agent does not have {which}", hint="ssh-add -l shows its keys; ssh-add FILE adds one"
    )


def _query(address: str, request: bytes) -> tuple[int, bytes]:
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_AGENT_SECONDS)
            sock.connect(address)
            sock.sendall(_string(request))
            (length,) = struct.unpack(">I", _receive(sock, 4))
            if not 0 < length <= _MAX_MESSAGE:
                raise SigningError("the ssh-agent sent an invalid response")
            response = _receive(sock, length)
    except OSError as error:
        raise SigningError(
            f"cannot talk to the ssh-agent: {error.strerror or error}",
            hint="is it still running? (SSH_AUTH_SOCK)",
        ) from error
    return response[0], response[1:]


def _receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise SigningError("the ssh-agent closed the connection")
        data += piece
    return data


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _take(data: bytes) -> tuple[bytes, bytes]:
    """Return the first string of a message, and the rest."""
    end = 4 + int.from_bytes(data[:4])
    if len(data) < end:
        raise SigningError("the response of the ssh-agent is cut short")
    return data[4:end], data[end:]
