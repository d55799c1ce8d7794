"""Check envelopes: which key has signed one, what it states, and whether that is about what is there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from buildstep.errors import SigningError
from buildstep.trust import dsse
from buildstep.trust.policy import TrustedKey
from buildstep.trust.statements import kind_of
from buildstep.trust.statements.statement import PAYLOAD_TYPE, Statement, Subject, parse
from buildstep.trust.verify.evidence import Evidence, RawEnvelope
from buildstep.trust.verify.found import Found
from buildstep.trust.verify.report import State

UNREADABLE: Final = "statement"
"""What is not known to prove anything, and could have proved whatever is required."""

_FINGERPRINT: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")

_PASSED: Final = ("PASSED", "WARNED")
"""What the result of tests may be (in-toto/attestation, test-result v0.1)."""


def check(raw: RawEnvelope, evidence: Evidence, keys: Sequence[TrustedKey]) -> Iterator[Found]:
    """Yield what an envelope proves, once for each key that has signed it; nothing where it is about things
    that nobody here asks for. keys: of the policy."""
    try:
        envelope = dsse.parse(raw.data)
    except SigningError as error:
        yield Found(proof=UNREADABLE, where=raw.where, state=State.UNSIGNED, text=error.message)
        return
    statement, why = _statement(envelope)
    kind = kind_of(statement.predicate_type) if statement is not None else None
    proof = kind.proves if kind is not None else ""
    signed = [key for key in keys if envelope.signed_by(key.public.verify)]
    if not signed:
        found = _by_nobody(envelope, keys, proof or UNREADABLE, raw.where)
        yield found if found.broken or not why else found.with_text(f"{found.text}; {why}")
    elif proof and statement is not None and envelope.payload_type == PAYLOAD_TYPE:
        for key in signed:
            yield _by(key, statement, proof, evidence, raw.where)


def _statement(envelope: dsse.Envelope) -> tuple[Statement | None, str]:
    """Return what an envelope states, and why it states nothing."""
    try:
        return parse(envelope.payload), ""
    except SigningError as error:
        return None, error.message


def _by_nobody(envelope: dsse.Envelope, keys: Sequence[TrustedKey], proof: str, where: str) -> Found:
    """Return what an envelope is that no key of the policy has signed."""
    if not envelope.signatures:
        return Found(proof=proof, where=where, state=State.UNSIGNED, text="nobody has signed it")
    keyids = [signature.keyid for signature in envelope.signatures]
    for key in keys:
        if key.public.fingerprint in keyids or key.public.hint in keyids:
            text = f"it says that {key.name} has signed it, which it has not: it was altered"
            return Found(proof=proof, where=where, state=State.WRONG_KEY, text=text, broken=True)
    text = "no key of the policy has signed it, or it was altered"
    signer = next((keyid for keyid in keyids if _FINGERPRINT.fullmatch(keyid)), "")
    return Found(proof=proof, where=where, state=State.WRONG_KEY, text=text, signer=signer)


def _by(key: TrustedKey, statement: Statement, proof: str, evidence: Evidence, where: str) -> Found:
    """Return what a statement proves that a key has signed."""
    predicate = statement.predicate
    found = Found(
        proof=proof, where=where, state=State.GOOD, key=key,
        time=_time_of(predicate) if proof == "provenance" else None,
        builder=_builder_of(predicate) if proof == "provenance" else "",
        refused=refused(predicate) if proof == "tests" else "",
    )  # fmt: skip
    if any(_means(subject, evidence) for subject in statement.subjects):
        return found.with_text(f"builder {found.builder}" if found.builder else "")
    # An image proves itself whether it is whole; of any other file, only its name tells that it is meant.
    if "oci" not in evidence.digests and any(it.name == evidence.name for it in statement.subjects):
        text = f"{evidence.name} is not what was signed: it was altered, or is another one of that name"
        return replace(found.failed(State.WRONG_KEY, text), named=True)
    about = ", ".join(subject.name or _digest(subject) for subject in statement.subjects[:3])
    return found.failed(
        State.WRONG_SUBJECT, f"it is about {about}, and not about {evidence.name} as it is here"
    )


def _means(subject: Subject, evidence: Evidence) -> bool:
    return subject.digests.get("sha256") in evidence.subjects


def _digest(subject: Subject) -> str:
    name, value = next(iter(subject.digests.items()))
    return f"{name}:{value[:19]}"


# -- what predicates say


def _builder_of(predicate: Mapping[str, Any]) -> str:
    """Return the builder that provenance names (slsa.dev/provenance/v1: runDetails; v0.2: at the top)."""
    details = predicate.get("runDetails", predicate)
    builder = details.get("builder") if isinstance(details, dict) else None
    found = builder.get("id") if isinstance(builder, dict) else None
    return found if isinstance(found, str) else ""


def _time_of(predicate: Mapping[str, Any]) -> float | None:
    """Return when provenance says that the build ended, or began, where it says so."""
    details = predicate.get("runDetails", predicate)
    metadata = details.get("metadata") if isinstance(details, dict) else None
    if not isinstance(metadata, dict):
        return None
    for name in ("finishedOn", "startedOn", "buildFinishedOn", "buildStartedOn"):
        try:
            return datetime.fromisoformat(str(metadata.get(name))).timestamp()
        except (ValueError, OverflowError):
            continue
    return None


def refused(predicate: Mapping[str, Any]) -> str:
    """Return why the result of tests does not count, empty where it does."""
    result = predicate.get("result")
    return "" if result in _PASSED else f"its tests have not passed: {result}"
