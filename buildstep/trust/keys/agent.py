"""Keys of an ssh-agent, which may be on a person's machine or in a token that the agent speaks for."""

from __future__ import annotations

from buildstep.errors import SigningError
from buildstep.net.ssh_agent import LARGEST, RSA_SHA2_256, Agent, Identity, take
from buildstep.trust.keys.interface import KeySource, Signer
from buildstep.trust.keys.public import Message, PublicKey, public_from_blob, serialization_library

_KINDS = {
    "ssh-ed25519": "ssh-ed25519",
    "ecdsa-sha2-nistp256": "ecdsa-sha2-nistp256",
    "ssh-rsa": "rsa-sha2-256",
}
"""Kinds of keys that can sign here, and how their signatures are called."""

_SHOW = "ssh-add -l shows its keys; ssh-add FILE adds one"


def from_agent(text: str, source: KeySource) -> Signer:
    """Return a key of the agent of SSH_AUTH_SOCK. text: its fingerprint, as `ssh-keygen -l` shows it; empty
    for the only one. See `Kind`."""
    serialization_library()
    agent = Agent(source.environ)
    identity = _chosen(agent.identities(), text.removeprefix("MD5:"))
    where = f"the key {identity.names[0]} of the ssh-agent"
    if identity.kind not in _KINDS:
        raise SigningError(
            f"{where} is of the kind {identity.kind}, which does not do", hint=f"one of {', '.join(_KINDS)}"
        )
    public = public_from_blob(identity.blob, where)

    def make(message: Message) -> bytes:
        flags = RSA_SHA2_256 if public.algorithm == "rsa" else 0
        algorithm, signature = agent.sign(identity.blob, bytes(message), flags=flags)
        if algorithm != _KINDS[identity.kind]:
            raise SigningError(
                f"the ssh-agent signed with {algorithm}, not {_KINDS[identity.kind]}",
                hint="is it a very old one?",
            )
        return _raw(public, signature)

    return Signer(public, where, make, largest=LARGEST)


def _chosen(found: list[Identity], wanted: str) -> Identity:
    fits = [one for one in found if (wanted in one.names if wanted else one.kind in _KINDS)]
    if len(fits) == 1:
        return fits[0]
    if not fits:
        raise SigningError(
            f"the ssh-agent does not have {f'the key {wanted}' if wanted else 'a key'}", hint=_SHOW
        )
    raise SigningError(
        f"the ssh-agent has {len(fits)} keys, and none is named",
        detail="\n".join(f"  agent:{one.names[0]}  {one.comment}" for one in fits),
        hint="name one of them",
    )


def _raw(public: PublicKey, signature: bytes) -> bytes:
    """Return a raw signature of one in SSH's form, which has ECDSA's numbers one after the other."""
    if public.algorithm != "ecdsa-p256":
        return signature
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    r, rest = take(signature)
    s, _ = take(rest)
    return encode_dss_signature(int.from_bytes(r), int.from_bytes(s))
