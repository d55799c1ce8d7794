"""What there is to say of a built image, from the files beside it, and what of it a registry is given.

Files over the bytes of an archive (`X.sig`, `X.sigstore.json`, `X.minisig`) say nothing of the image in a
registry, where there is no such archive: they go along with the archive, to directories and buckets.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from buildstep.errors import PublishError, SigningError
from buildstep.formats.oci.spec import Descriptor
from buildstep.images.attestations.evidence import MAX_BLOB
from buildstep.images.attestations.wrap import DOCUMENTS, Document, Signed
from buildstep.trust import dsse, sidecars
from buildstep.trust.keys.interface import Signer
from buildstep.trust.statements import STATEMENTS, statement
from buildstep.trust.statements.statement import PAYLOAD_TYPE, Statement, Subject
from buildstep.trust.verify import bills
from buildstep.trust.verify.evidence import RawEnvelope

SIGNATURE: Final = STATEMENTS["signature"].predicate_types[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Papers:
    """What is said of an image: envelopes, and documents that are pushed as themselves. others: how many
    envelopes are about something else."""

    signed: tuple[Signed, ...] = ()
    documents: tuple[Document, ...] = ()
    others: int = 0


def beside(stem: Path) -> tuple[Path, ...]:
    """Return the files of a build that say something of all of it: statements and bills of materials."""
    kinds = [kind for kind in sidecars.SIDECARS if kind not in sidecars.SIGNATURES]
    return tuple(path for kind in kinds if (path := sidecars.sidecar(stem, kind)).is_file())


def signatures_of(artifacts: Iterable[Path]) -> tuple[Path, ...]:
    """Return the files beside artifacts that hold signatures of their bytes."""
    found = [
        path
        for artifact in artifacts
        for kind in sidecars.SIGNATURES
        for path in sidecars.signature_files(artifact, kind)
        if path.is_file()
    ]
    return tuple(dict.fromkeys(found))


def papers_of(stem: Path, image: Descriptor) -> Papers:
    """Return what the files beside a build say of its image. Raises PublishError for what is damaged."""
    signed, others = [], 0
    for envelope in envelopes_of(sidecars.sidecar(stem, sidecars.STATEMENTS)):
        if is_about(envelope, image):
            signed.append(envelope)
        else:
            others += 1
    if wrong := bills.altered(stem, (item.data for item in signed)):
        raise PublishError(wrong, hint="build again: it is made anew from the image")
    documents = []
    for path in beside(stem):
        kind = next((kind for end, kind in DOCUMENTS.items() if path.name.endswith(end)), "")
        if kind:
            documents.append(Document(name=path.name, media_type=kind, data=_read(path)))
    return Papers(signed=tuple(signed), documents=tuple(documents), others=others)


def envelopes_of(path: Path) -> list[Signed]:
    """Return the envelopes of a file of statements, none where there is no such file. Raises PublishError."""
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            dsse.parse(line)
        except SigningError as error:
            raise PublishError(f"{path}, line {number}: {error.message}") from error
        found.append(Signed(data=line))
    return found


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BLOB:
            raise PublishError(f"{path} is larger than {MAX_BLOB >> 20} MiB, which nobody would read again")
        return path.read_bytes()
    except OSError as error:
        raise PublishError(f"cannot read {path}: {error.strerror}") from error


def is_about(envelope: Signed, image: Descriptor) -> bool:
    """Tell whether an envelope has a statement about an image, by its digest."""
    try:
        stated = statement.parse(envelope.envelope.payload)
    except SigningError:
        return False
    return stated.subject_of({"sha256": image.hex}) is not None


# -- signing at the time of publication -------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Signing:
    """Keys that sign what is published, each message once: a token may want a touch for each."""

    signers: tuple[Signer, ...] = ()
    _made: dict[tuple[str, bytes], bytes] = field(default_factory=dict, repr=False, compare=False)

    def __bool__(self) -> bool:
        return bool(self.signers)

    def of(self, message: bytes, signer: Signer) -> bytes:
        """Return a key's signature of a message. Raises SigningError."""
        where = (signer.fingerprint, hashlib.sha256(message).digest())
        if where not in self._made:
            self._made[where] = signer.sign(message)
        return self._made[where]


NOBODY: Final = Signing()


def signed_by(
    papers: Papers,
    image: Descriptor,
    name: str,
    signing: Signing,
    there: Callable[[], Sequence[RawEnvelope]] = tuple,
) -> Papers:
    """Return papers with what nobody has signed yet signed, and with a signature of the image by each key.

    name: of the image, for people. there: what the registry has, asked for where something has to be signed:
    what is there by the same key is taken, since not every signature is the same each time. Raises
    SigningError.
    """
    if not signing:
        return papers
    kept = _Kept(there, signing)
    hints = {one.fingerprint: one.public.hint for one in signing.signers}
    signed = []
    for item in papers.signed:
        envelope = item.envelope
        if envelope.signatures:
            signed.append(replace(item, hints=hints))
        else:
            signed += [kept.sealed(envelope.payload_type, envelope.payload, one) for one in signing.signers]
    bare = [item.envelope for item in signed if item.predicate_type == SIGNATURE]
    payload = Statement((Subject(name, {"sha256": image.hex}),), SIGNATURE, {}).to_json()
    for one in signing.signers:
        if not any(envelope.signed_by(one.public.verify) for envelope in bare):
            signed.append(kept.sealed(PAYLOAD_TYPE, payload, one))
    return replace(papers, signed=tuple(signed))


class _Kept:
    """Envelopes of a registry, by what they say."""

    def __init__(self, there: Callable[[], Sequence[RawEnvelope]], signing: Signing) -> None:
        self._there, self._signing = there, signing

    @cached_property
    def _by_payload(self) -> dict[tuple[str, bytes], list[dsse.Envelope]]:
        found: dict[tuple[str, bytes], list[dsse.Envelope]] = {}
        for raw in self._there():
            with contextlib.suppress(SigningError):
                envelope = dsse.parse(raw.data)
                found.setdefault((envelope.payload_type, envelope.payload), []).append(envelope)
        return found

    def sealed(self, kind: str, payload: bytes, signer: Signer) -> Signed:
        """Return an envelope by a key: the one that is there, else a new one."""
        message = dsse.pae(kind, payload)
        known = (one for envelope in self._by_payload.get((kind, payload), ()) for one in envelope.signatures)
        sig = next((one.sig for one in known if signer.public.verify(message, one.sig)), None)
        if sig is None:
            sig = self._signing.of(message, signer)
        row = dsse.Signature(signer.fingerprint, sig)
        data = dsse.dumps(dsse.Envelope(payload_type=kind, payload=payload, signatures=(row,)))
        return Signed(data=data, hints={signer.fingerprint: signer.public.hint})
