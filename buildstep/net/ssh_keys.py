"""Sign HTTP calls as IMGAPI servers want it, with an RSA key; an ssh-agent can hold it (RFC 8332)."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from email.utils import formatdate

from buildstep.errors import SigningError
from buildstep.net.ssh_agent import RSA_SHA2_256, Agent

Signer = Callable[[bytes], bytes]
"""Makes the RSA PKCS#1 v1.5 signature, with SHA-256, of some bytes."""


def http_signature(user: str, signer: Signer, *, now: Callable[[], str] | None = None) -> dict[str, str]:
    """Return the headers of a call made as this user: the date, signed (HTTP-Signature, rsa-sha256)."""
    date = now() if now else formatdate(usegmt=True)
    signature = base64.b64encode(signer(f"date: {date}".encode())).decode()
    value = f'Signature keyId="{user}",algorithm="rsa-sha256",signature="{signature}"'
    return {"Date": date, "Authorization": value}


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
