"""What there is about one artifact, wherever it came from: its digests, and what others say of it.

Nothing of it is believed before `trust.verify.judge` has checked it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SignatureKind = Literal["sshsig", "minisign", "bundle", "raw", "simplesigning"]
"""sshsig: armoured, of ssh-keygen; minisign: a .minisig; bundle: a Sigstore bundle v0.3, of a blob or with an
envelope; raw: its bytes in base64 and nothing else; simplesigning: of an image's manifest digest, as
containers and cosign write it."""


@dataclass(frozen=True, slots=True)
class RawEnvelope:
    """A DSSE envelope as it was found. where: the file and line, or the place in a registry."""

    data: bytes
    where: str


@dataclass(frozen=True, slots=True)
class RawSignature:
    """A signature as it was found, that is no envelope.

    data: the content of its file; of simplesigning: the signature, in base64; payload: of simplesigning: the
    document that is signed. where: as of `RawEnvelope`; shared: it may be of another artifact of its build.
    """

    kind: SignatureKind
    data: bytes
    where: str
    payload: bytes = b""
    shared: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """All that there is about one artifact.

    name: what it is called in messages; names: all that a policy's patterns may know it by, such as
    hello-1.0.0.oci.tar and hello-1.0.0, or docker://HOST/NAME:TAG and docker://HOST/NAME; digests: in hex, of
    what is there: "sha256" of a file's bytes, "oci" of an image's manifest or index, "platform" of the
    manifest that was chosen of an index; all of them were computed, none was read in evidence. path: the file
    whose bytes are signed, None for what is in a registry; stem: what the names of the files beside it begin
    with; damage: what of it is not what its own digests
    say, empty for nothing: then nothing can be proved of it; created: when the image says that it was made,
    in seconds since the epoch; source: what vouches for it in place of signatures, such as the keyring of
    Debian's archive, empty for nothing.
    """

    name: str
    names: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    envelopes: tuple[RawEnvelope, ...] = ()
    signatures: tuple[RawSignature, ...] = ()
    path: Path | None = None
    stem: Path | None = None
    damage: str = ""
    created: float | None = None
    source: str = ""

    @property
    def subjects(self) -> frozenset[str]:
        """The SHA-256 digests, in hex, by which a statement may mean it."""
        return frozenset(self.digests.values())
