"""All signatures of one file: by OpenSSH's format, as a bundle, and by minisign's; added to those there are.

OpenSSH's file has a signature of each key. A bundle and a .minisig have room for one: the first key that can
make it does, and those that follow are told as left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from buildstep.errors import SigningError
from buildstep.trust.keys.interface import Signer
from buildstep.trust.sidecars import BUNDLE, MINISIGN, SSHSIG
from buildstep.trust.signatures import bundle, minisign, sshsig
from buildstep.trust.signatures.content import Content

_OTHER_MEANINGS = (b"DSSEv1 ", b"SSHSIG")
"""How messages of other formats begin: a bare signature of a file that begins so would be one of these
too."""


@dataclass(slots=True)
class Made:
    """What was made. files: by the kind of the sidecar, all that there are then; left_out: what could not be
    made, and why."""

    files: dict[str, bytes] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def signatures_of(
    content: Content, name: str, signers: Sequence[Signer], earlier: Mapping[str, bytes] | None = None
) -> Made:
    """Return the signatures of some content by all of some keys, with those that are there and still good.

    name: of the file; earlier: what is there, by the kind of the sidecar. Raises SigningError.
    """
    made, known = Made(), earlier or {}
    content.compute()
    made.files[SSHSIG] = _ssh(content, signers, known.get(SSHSIG, b""))
    _one(made, BUNDLE, known.get(BUNDLE), _bundle(content, signers, made, known.get(BUNDLE, b"")))
    _one(
        made, MINISIGN, known.get(MINISIGN), _minisign(content, name, signers, made, known.get(MINISIGN, b""))
    )
    return made


def _one(made: Made, kind: str, old: bytes | None, new: bytes | None) -> None:
    if (data := new or old) is not None:
        made.files[kind] = data


def others_of(content: Content, signers: Sequence[Signer], old: bytes) -> bytes:
    """Return the good signatures of an older file of OpenSSH's format that are by none of some keys."""
    ours = {signer.fingerprint for signer in signers}
    return b"".join(block for by, block in _good_blocks(content, old).items() if by not in ours)


def _ssh(content: Content, signers: Sequence[Signer], old: bytes) -> bytes:
    blocks = _good_blocks(content, old)
    for signer in signers:
        if signer.fingerprint not in blocks:
            blocks[signer.fingerprint] = sshsig.make(content, signer)
    return b"".join(blocks.values())


def _good_blocks(content: Content, old: bytes) -> dict[str, bytes]:
    """Return those signatures of a file that are good, by the fingerprints of their keys: others are of bytes
    that are not there any more."""
    try:
        return sshsig.good_blocks(old, content)
    except SigningError:
        return {}


def _bundle(content: Content, signers: Sequence[Signer], made: Made, old: bytes) -> bytes | None:
    """Return the bundle by the first key that can make it; None to leave what is there."""
    holder = _holder(lambda: bundle.check(old, content, [one.public for one in signers]).signers)
    if holder is None and old and _is_of(content, old):
        holder = "another key"
    if holder is not None:
        _told(made, "a bundle", holder, signers)
        return None
    if reason := other_meaning(content):
        made.left_out.append(f"no bundle: {reason}")
        return None
    for signer in signers:
        if signer.takes(len(content.data)):
            _told(made, "a bundle", signer.fingerprint, signers)
            return bundle.make(content, signer)
        made.left_out.append(f"no bundle by {signer.where}: it signs no message of that size")
    return None


def _is_of(content: Content, old: bytes) -> bool:
    """Tell whether a bundle, by whomever, is of this content."""
    try:
        found = bundle.parse(old)
    except SigningError:
        return False
    return found.envelope is None and found.digest == content.sha256


def _minisign(content: Content, name: str, signers: Sequence[Signer], made: Made, old: bytes) -> bytes | None:
    able = [signer for signer in signers if signer.algorithm == "ed25519"]
    holder = _holder(lambda: minisign.check(old, content, [one.public for one in able]).signers)
    if holder is None and old and not _is_by(old, able):
        holder = "another key"
    if holder is not None:
        _told(made, "a .minisig", holder, able)
        return None
    if not able:
        return None
    _told(made, "a .minisig", able[0].fingerprint, able)
    return minisign.make(content, able[0], f"file:{_one_line(name)}\thashed")


def _is_by(old: bytes, signers: Sequence[Signer]) -> bool:
    """Tell whether a .minisig is none, or one by these keys, which is not good any more."""
    try:
        ident = minisign.parse(old).ident
    except SigningError:
        return True
    return any(minisign.key_id(signer.public) == ident for signer in signers)


def _one_line(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name.encode(errors="replace").decode())


def _holder(check: Callable[[], Sequence[object]]) -> str | None:
    """Return the fingerprint of the key, of those that sign now, whose good signature is there; None if
    none."""
    try:
        found = check()
    except SigningError:
        return None
    return getattr(found[0], "fingerprint", None) if found else None


def _told(made: Made, what: str, holder: str, signers: Sequence[Signer]) -> None:
    """Note the keys whose signature has no room beside that of the holder."""
    for signer in signers:
        if signer.fingerprint != holder:
            made.left_out.append(
                f"{what} has one signature, which is by {holder}: none by {signer.fingerprint}"
            )


def other_meaning(content: Content) -> str:
    """Return why a bare signature of some content would have another meaning too; empty if it has none.

    Bundles sign bytes as they are, and so do envelopes and images: a file that is one of these documents
    would be signed as such, and a signature of one of these would be one of the file.
    """
    begin = bytes(content.data[:16])
    if begin.startswith(_OTHER_MEANINGS):
        return "the file begins as what is signed in another format"
    if begin.lstrip()[:1] == b"{" and len(content.data) < (1 << 20):
        try:
            value = json.loads(bytes(content.data))
        except (ValueError, RecursionError):
            return ""
        if isinstance(value, dict) and "critical" in value:
            return "the file is a document that signs an image"
    return ""
