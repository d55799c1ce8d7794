"""Files of statements, one envelope a line: signatures are added to those that are about an artifact.

What is signed is what stands there; so a statement about something else, or one that was altered since one of
the keys signed it, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from buildstep.errors import SigningError, WrongSubjectError
from buildstep.trust import dsse
from buildstep.trust.keys.interface import Signer
from buildstep.trust.statements import STATEMENTS
from buildstep.trust.statements.statement import PAYLOAD_TYPE, Statement, Subject, parse

LARGEST = 256 << 20
"""Bytes of a file of statements."""


@dataclass(slots=True)
class Lines:
    """A file of statements. statements: what kinds of them there are; added: signatures that were not there
    before; left_out: what could not be signed, and why."""

    data: bytes = b""
    statements: list[str] = field(default_factory=list)
    added: int = 0
    left_out: list[str] = field(default_factory=list)


def signed(
    text: bytes,
    subjects: Sequence[Subject],
    images: Sequence[Subject],
    signers: Sequence[Signer],
    where: str,
) -> Lines:
    """Return a file of statements with signatures of all of some keys on each.

    A statement that images are signed is added if none is there. text: of the file, empty for none; subjects:
    what the statements have to be about; images: those of them that a registry knows; where: the file's name,
    for errors. Raises SigningError, of these WrongSubjectError for a statement about something else. Lines
    that are no statements stay as they are.
    """
    made, rows = Lines(), []
    bare = not images
    for number, line in enumerate(text.splitlines(), start=1):
        place = f"{where} line {number}"
        found = _statement(line)
        if found is None:
            rows.append(line)
            continue
        envelope, statement = found
        if not any(statement.subject_of(subject.digests) for subject in subjects):
            raise WrongSubjectError(
                f"{place} is about something else",
                detail=f"about: {_about(statement.subjects)}",
                hint="a build wrote it beside another image; build again, or move it away",
            )
        bare = bare or (_is_bare(statement) and _covers(statement, images))
        rows.append(_line(line, envelope, signers, made, place))
        made.statements.append(statement.predicate_type)
    if not bare:
        statement = Statement(tuple(images), STATEMENTS["signature"].predicate_types[0], {})
        envelope = dsse.Envelope(payload_type=PAYLOAD_TYPE, payload=statement.to_json(), signatures=())
        rows.append(_line(b"", envelope, signers, made, where))
        made.statements.append(statement.predicate_type)
    made.data = b"".join(row + b"\n" for row in rows)
    return made


def merged(text: bytes, old: bytes) -> bytes:
    """Return a file of statements with the signatures that an older one has of the same statements by other
    keys. Whether these are good is for whoever trusts the keys."""
    known: dict[bytes, list[dsse.Signature]] = {}
    for line in old.splitlines():
        if (found := _statement(line)) is not None:
            known.setdefault(found[0].message, []).extend(found[0].signatures)
    return b"".join(_with(line, known) + b"\n" for line in text.splitlines())


def _with(line: bytes, known: Mapping[bytes, Sequence[dsse.Signature]]) -> bytes:
    """Return an envelope with signatures that are known of its message, and are by other keys."""
    if (found := _statement(line)) is None:
        return line
    envelope = found[0]
    ours = {row.keyid for row in envelope.signatures}
    more = [row for row in known.get(envelope.message, ()) if row.keyid not in ours]
    if not more:
        return line
    rows = (*envelope.signatures, *more)[: dsse.MAX_SIGNATURES]
    return dsse.dumps(replace(envelope, signatures=rows))


def _statement(line: bytes) -> tuple[dsse.Envelope, Statement] | None:
    try:
        envelope = dsse.parse(line)
        return (envelope, parse(envelope.payload)) if envelope.payload_type == PAYLOAD_TYPE else None
    except SigningError:
        return None


def _about(subjects: Sequence[Subject]) -> str:
    return ", ".join(f"{one.name} {'; '.join(one.digests.values())}" for one in subjects[:3])


def _is_bare(statement: Statement) -> bool:
    return statement.predicate_type in STATEMENTS["signature"].predicate_types


def _covers(statement: Statement, subjects: Sequence[Subject]) -> bool:
    return all(statement.subject_of(subject.digests) for subject in subjects)


def _line(line: bytes, envelope: dsse.Envelope, signers: Sequence[Signer], made: Lines, place: str) -> bytes:
    """Return a line with all signatures; the same bytes where none was added."""
    message, rows = envelope.message, list(envelope.signatures)
    for signer in signers:
        if any(signer.public.verify(message, row.sig) for row in rows):
            continue
        if any(row.keyid == signer.fingerprint for row in rows):
            raise SigningError(
                f"{place} was altered since {signer.fingerprint} signed it",
                hint="build again, or take the file from where it was published",
            )
        if not signer.takes(len(message)):
            made.left_out.append(f"{place}: {signer.where} signs no message of {len(message)} bytes")
            continue
        rows.append(dsse.Signature(signer.fingerprint, signer.sign(message)))
    added = len(rows) - len(envelope.signatures)
    made.added += added
    return line if line and not added else dsse.dumps(replace(envelope, signatures=tuple(rows)))
