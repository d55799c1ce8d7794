"""Signatures of OpenSSH: made and read as `ssh-keygen -Y sign` and `ssh-keygen -Y verify` do.

The format is PROTOCOL.sshsig of OpenSSH: armour around "SSHSIG", the version 1 and the strings public key,
namespace, reserved, hash and signature; what is signed is "SSHSIG" and the strings namespace, reserved, hash
and digest. A file may hold the signatures of several keys, one after the other: ssh-keygen reads the first.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from buildstep.errors import SigningError
from buildstep.net.ssh_agent import fingerprints, string, take
from buildstep.trust.keys.interface import Signer
from buildstep.trust.keys.public import PublicKey, public_from_blob
from buildstep.trust.signatures.content import Content
from buildstep.trust.signatures.interface import Checked

NAMESPACE = "buildstep@v1"
"""What the signature is for: one made for another purpose, such as a mail or a commit, does not count."""

_BEGIN, _END = b"-----BEGIN SSH SIGNATURE-----", b"-----END SSH SIGNATURE-----"
_ARMOUR = re.compile(re.escape(_BEGIN) + rb"\r?\n([A-Za-z0-9+/=\r\n]+)" + re.escape(_END))
_MAGIC = b"SSHSIG"
_VERSION = 1
_MOST = 16
_COLUMNS = 70
_OF_RSA = {"rsa-sha2-256", "rsa-sha2-512"}


@dataclass(frozen=True, slots=True)
class SshSignature:
    """A signature that was read; nothing of it is true yet. algorithm: as OpenSSH names it."""

    blob: bytes
    namespace: str
    digest: str
    algorithm: str
    signature: bytes

    @property
    def fingerprint(self) -> str:
        """Of the key that it says that it is by."""
        return fingerprints(self.blob)[0]


def make(content: Content, signer: Signer, *, namespace: str = NAMESPACE) -> bytes:
    """Return the armoured signature of some content. Raises SigningError."""
    raw = signer.sign(_message(namespace, "sha512", content.sha512))
    algorithm, signature = _ssh_form(signer, raw)
    inner = string(algorithm) + string(signature)
    blob = _MAGIC + struct.pack(">I", _VERSION) + string(signer.public.blob) + string(namespace.encode())
    blob += string(b"") + string(b"sha512") + string(inner)
    text = base64.b64encode(blob)
    lines = [text[at : at + _COLUMNS] for at in range(0, len(text), _COLUMNS)]
    return b"\n".join((_BEGIN, *lines, _END)) + b"\n"


def check(
    signature: bytes, content: Content, keys: Sequence[PublicKey], *, namespace: str = NAMESPACE
) -> Checked:
    """See `Check`; a signature for another namespace is not good."""
    found = parse(signature)
    signers: list[PublicKey] = []
    why: list[str] = []
    for one in found:
        if problem := _problem(one, content, namespace):
            why.append(f"{one.fingerprint}: {problem}")
            continue
        signers += [key for key in keys if key.fingerprint == one.fingerprint and key not in signers]
    return Checked(tuple(signers), tuple(one.fingerprint for one in found), tuple(why))


def good_blocks(data: bytes, content: Content, *, namespace: str = NAMESPACE) -> dict[str, bytes]:
    """Return the armoured signatures of a file that are good ones of some content, by the fingerprints of
    their keys, whoever has these. Raises SigningError as `parse`."""
    found = parse(data)
    blocks = [_BEGIN + b"\n" + text + _END + b"\n" for text in _ARMOUR.findall(data)]
    pairs = zip(found, blocks, strict=True)
    return {one.fingerprint: block for one, block in pairs if not _problem(one, content, namespace)}


def parse(data: bytes) -> tuple[SshSignature, ...]:
    """Return the signatures of a file. Raises SigningError where it holds none, or what is none."""
    blocks = _ARMOUR.findall(data)
    rest = _ARMOUR.sub(b"", data).strip()
    if not blocks or rest or len(blocks) > _MOST:
        raise SigningError("it is no signature of OpenSSH")
    try:
        return tuple(_parsed(base64.b64decode(b"".join(block.split()), validate=True)) for block in blocks)
    except (binascii.Error, SigningError, UnicodeDecodeError) as error:
        raise SigningError("it is a damaged signature of OpenSSH") from error


def _parsed(blob: bytes) -> SshSignature:
    if not blob.startswith(_MAGIC + struct.pack(">I", _VERSION)):
        raise SigningError("another version")
    key, rest = take(blob[len(_MAGIC) + 4 :])
    namespace, rest = take(rest)
    _, rest = take(rest)
    digest, rest = take(rest)
    inner, rest = take(rest)
    algorithm, more = take(inner)
    signature, after = take(more)
    if rest or (after and not algorithm.startswith(b"sk-")):
        raise SigningError("it is longer than it says")
    return SshSignature(key, namespace.decode(), digest.decode(), algorithm.decode(), signature)


def _problem(one: SshSignature, content: Content, namespace: str) -> str:
    """Return why a signature is not good, empty if it is: by the key that it names, whoever that is."""
    if one.namespace != namespace:
        return f"it is for {one.namespace!r}, and not for {namespace!r}"
    if one.digest not in ("sha256", "sha512"):
        return f"its digest is of the kind {one.digest!r}"
    try:
        key = public_from_blob(one.blob, "its key")
    except SigningError as error:
        return error.message
    digest = content.sha512 if one.digest == "sha512" else content.sha256
    good = _verified(key, _message(namespace, one.digest, digest), one)
    return "" if good else "the signature is not of these bytes"


def _verified(key: PublicKey, message: bytes, one: SshSignature) -> bool:
    match key.algorithm, one.algorithm:
        case "ed25519", "ssh-ed25519":
            return key.verify(message, one.signature)
        case "ecdsa-p256", "ecdsa-sha2-nistp256":
            from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

            try:
                r, rest = take(one.signature)
                s, rest = take(rest)
            except SigningError:
                return False
            pair = encode_dss_signature(int.from_bytes(r), int.from_bytes(s))
            return not rest and key.verify(message, pair)
        case "rsa", "rsa-sha2-256":
            return key.verify(message, one.signature)
        case "rsa", "rsa-sha2-512":
            return key.verify_rsa_sha512(message, one.signature)
    return False


def _message(namespace: str, digest: str, value: bytes) -> bytes:
    return _MAGIC + string(namespace.encode()) + string(b"") + string(digest.encode()) + string(value)


def _ssh_form(signer: Signer, raw: bytes) -> tuple[bytes, bytes]:
    """Return a raw signature in SSH's form: its algorithm, and its bytes (RFC 5656, 8332, 8709)."""
    match signer.algorithm:
        case "ed25519":
            return b"ssh-ed25519", raw
        case "rsa":
            return b"rsa-sha2-256", raw
        case "ecdsa-p256":
            from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

            return b"ecdsa-sha2-nistp256", b"".join(_mpint(number) for number in decode_dss_signature(raw))


def _mpint(number: int) -> bytes:
    """Return a number as SSH's protocol has it: with a zero before a first byte whose highest bit is set."""
    return string(number.to_bytes(number.bit_length() // 8 + 1))
