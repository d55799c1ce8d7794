"""Sign bytes with an ssh RSA key: from its file, or by an ssh-agent (RFC 8332)."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

from buildstep.errors import SigningError, ToolMissing
from buildstep.net.ssh_agent import RSA_SHA2_256, Agent

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

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
    agent = Agent(environ)
    wanted = fingerprint.removeprefix("MD5:")
    for identity in agent.identities():
        if identity.kind == "ssh-rsa" and (not wanted or wanted in identity.names):
            blob = identity.blob
            break
    else:
        which = f"the RSA key {fingerprint}" if fingerprint else "an RSA key"
        raise SigningError(
            f"the ssh-agent does not have {which}", hint="ssh-add -l shows its keys; ssh-add FILE adds one"
        )

    def sign(data: bytes) -> bytes:
        algorithm, signature = agent.sign(blob, data, flags=RSA_SHA2_256)
        if algorithm != "rsa-sha2-256":
            raise SigningError(
                f"the ssh-agent signed with {algorithm}, not rsa-sha2-256",
                hint="is the agent older than OpenSSH 7.2?",
            )
        return signature

    return sign
