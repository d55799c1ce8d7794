"""Talk to an ssh-agent: which keys it has, and their signatures (draft-miller-ssh-agent)."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from buildstep.errors import SigningError

LARGEST = (256 << 10) - (8 << 10)
"""Bytes of a message that OpenSSH's agent signs: it reads 256 KiB at most, with the key's name."""

RSA_SHA2_256 = 2
"""A flag: of an RSA key a signature with SHA-256 (RFC 8332)."""

_SECONDS = 20.0  # an agent may ask its user to confirm
_REQUEST_IDENTITIES, _IDENTITIES_ANSWER = 11, 12
_SIGN_REQUEST, _SIGN_RESPONSE = 13, 14
_MAX_MESSAGE = 1 << 20


@dataclass(frozen=True, slots=True)
class Identity:
    """A key that an agent has. blob: its public half in OpenSSH's form."""

    blob: bytes
    comment: str

    @property
    def kind(self) -> str:
        """Such as ssh-rsa or ssh-ed25519."""
        return take(self.blob)[0].decode(errors="replace")

    @property
    def names(self) -> tuple[str, str]:
        return fingerprints(self.blob)


class Agent:
    """The agent of SSH_AUTH_SOCK."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Raises SigningError where none is named."""
        self._address = environ.get("SSH_AUTH_SOCK", "")
        if not self._address:
            raise SigningError(
                "there is no ssh-agent: SSH_AUTH_SOCK is not set", hint="name a key file, or start an agent"
            )

    def identities(self) -> list[Identity]:
        """Return the keys that it has. Raises SigningError."""
        kind, body = self._query(bytes([_REQUEST_IDENTITIES]))
        if kind != _IDENTITIES_ANSWER or len(body) < 4:
            raise SigningError("the ssh-agent does not list its keys")
        count, rest = int.from_bytes(body[:4]), body[4:]
        found = []
        for _ in range(min(count, 1000)):
            blob, rest = take(rest)
            comment, rest = take(rest)
            found.append(Identity(blob, comment.decode(errors="replace")))
        return found

    def sign(self, blob: bytes, data: bytes, *, flags: int = 0) -> tuple[str, bytes]:
        """Return the name of the signature's algorithm, and the signature in SSH's form. Raises
        SigningError."""
        request = bytes([_SIGN_REQUEST]) + string(blob) + string(data) + struct.pack(">I", flags)
        kind, body = self._query(request)
        if kind != _SIGN_RESPONSE:
            raise SigningError("the ssh-agent refused to sign", hint="is the key locked, or to be confirmed?")
        algorithm, rest = take(take(body)[0])
        return algorithm.decode(errors="replace"), take(rest)[0]

    def _query(self, request: bytes) -> tuple[int, bytes]:
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(_SECONDS)
                sock.connect(self._address)
                sock.sendall(string(request))
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


def fingerprints(blob: bytes) -> tuple[str, str]:
    """Return a public key's SHA-256 and MD5 fingerprints, as ssh-keygen -l prints them."""
    sha = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    md5 = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    return f"SHA256:{sha}", ":".join(md5[i : i + 2] for i in range(0, 32, 2))


def string(data: bytes) -> bytes:
    """Return bytes as a string of SSH's protocol (RFC 4251, 5)."""
    return struct.pack(">I", len(data)) + data


def take(data: bytes) -> tuple[bytes, bytes]:
    """Return the first string of a message, and the rest. Raises SigningError."""
    end = 4 + int.from_bytes(data[:4])
    if len(data) < end:
        raise SigningError("the response of the ssh-agent is cut short")
    return data[4:end], data[end:]


def _receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise SigningError("the ssh-agent closed the connection")
        data += piece
    return data
