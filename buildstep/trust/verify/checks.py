"""Check all that there is about an artifact by the keys of a policy: signatures of bytes, and statements."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from buildstep.errors import SigningError
from buildstep.trust import dsse
from buildstep.trust.policy import TrustedKey
from buildstep.trust.signatures import CHECKS, bundle, minisign, simplesigning
from buildstep.trust.signatures.content import Content, content_of
from buildstep.trust.signatures.of_file import other_meaning
from buildstep.trust.verify import statements
from buildstep.trust.verify.evidence import Evidence, RawEnvelope, RawSignature
from buildstep.trust.verify.found import Found
from buildstep.trust.verify.report import State


def check_all(evidence: Evidence, keys: Sequence[TrustedKey]) -> list[Found]:
    """Return what of the evidence is good, and what the rest fails at: is it signed, by a key of the policy,
    and is it about this artifact?"""
    stated = [found for raw in evidence.envelopes for found in statements.check(raw, evidence, keys)]
    signed = [found for raw in evidence.signatures for found in _signature(raw, evidence, keys)]
    # What was signed is told by names, which not every form has: one of other bytes does not tell of which.
    told = [*stated, *signed]
    others = [found.text for found in told if found.state is State.WRONG_SUBJECT and found.key is not None]
    about_it = any(found.state is State.GOOD or found.named for found in told)
    elsewhere = "" if about_it else "".join(others[:1])
    return [*(_of_other_bytes(found, elsewhere) for found in signed), *stated]


def _of_other_bytes(found: Found, elsewhere: str) -> Found:
    return found.failed(State.WRONG_SUBJECT, elsewhere) if found.broken and elsewhere else found


def _signature(raw: RawSignature, evidence: Evidence, keys: Sequence[TrustedKey]) -> Iterator[Found]:
    """Yield what a signature proves, once for each key that has made it."""
    try:
        if raw.kind == "bundle" and (envelope := bundle.parse(raw.data).envelope) is not None:
            yield from statements.check(RawEnvelope(dsse.dumps(envelope), raw.where), evidence, keys)
            return
        with _content(raw, evidence) as content:
            yield from _checked(raw, content, evidence, keys)
    except SigningError as error:
        text = f"{error.message}; {error.hint}" if error.hint else error.message
        yield Found(proof="signature", where=raw.where, state=State.WRONG_KEY, text=text)


def _content(raw: RawSignature, evidence: Evidence) -> contextlib.AbstractContextManager[Content]:
    """Return the bytes that a signature is to be of."""
    if raw.kind == "simplesigning":
        return contextlib.nullcontext(Content(raw.payload))
    if evidence.path is None:
        raise SigningError("it is a signature of a file, and here is none")
    return content_of(evidence.path, sha256=evidence.digests.get("sha256", ""))


def _checked(
    raw: RawSignature, content: Content, evidence: Evidence, keys: Sequence[TrustedKey]
) -> Iterator[Found]:
    if raw.kind != "simplesigning" and (why := other_meaning(content)):
        raise SigningError(f"{why}, and a signature of that is none of the file")
    done = CHECKS[raw.kind](raw.data, content, [key.public for key in keys])
    good = {public.fingerprint for public in done.signers}
    found = Found(proof="signature", where=raw.where, state=State.GOOD)
    if raw.kind == "simplesigning" and good:
        signed = simplesigning.parse(raw.payload)
        if signed.digest.removeprefix("sha256:") not in evidence.subjects:
            found = found.failed(State.WRONG_SUBJECT, f"it is about {signed.reference}@{signed.digest}")
    for key in keys:
        if key.public.fingerprint in good:
            yield found.by(key, time=_time(raw))
        elif _names(key, done.claimed) or _has_made(key, raw):
            yield _broken(raw, key, evidence)
    if not good and not any(_names(key, done.claimed) or _has_made(key, raw) for key in keys):
        others = [name for name in done.claimed if name.startswith("SHA256:")]
        text = "; ".join(done.why) if others else ""
        yield Found(
            proof="signature", where=raw.where, state=State.WRONG_KEY, signer=others[0] if others else "",
            text=text or "no key of the policy has made it, or it is of other bytes",
        )  # fmt: skip


def _broken(raw: RawSignature, key: TrustedKey, evidence: Evidence) -> Found:
    """Return what a signature is that names a key, or is by it, and is not of these bytes."""
    if raw.shared:  # by the first artifact of the build, whichever that is
        text = "it is not of this file; another of its build lies beside"
        return Found(proof="signature", where=raw.where, state=State.WRONG_SUBJECT, text=text)
    text = f"it is not what {key.name} has signed: altered, or something else"
    found = Found(proof="signature", where=raw.where, state=State.WRONG_KEY, key=key, text=text, broken=True)
    name = _name_in(raw) if _has_made(key, raw) else ""
    if name and name != evidence.name:
        return found.failed(State.WRONG_SUBJECT, f"it is about {name}, and not about {evidence.name}")
    return replace(found, named=bool(name))


def _has_made(key: TrustedKey, raw: RawSignature) -> bool:
    """Tell whether a key has made a .minisig, of whatever: the signature over its comment tells."""
    if raw.kind != "minisign" or key.public.algorithm != "ed25519":
        return False
    found = minisign.parse(raw.data)
    return found.glob is not None and key.public.verify(found.signature + found.comment, found.glob)


def _name_in(raw: RawSignature) -> str:
    """Return the name of the file that was signed, which minisign writes into the comment; empty for none."""
    told = re.search(rb"(?:^|\t)file:([^\t]+)", minisign.parse(raw.data).comment)
    return told[1].decode(errors="replace") if told else ""


def _names(key: TrustedKey, claimed: Sequence[str]) -> bool:
    return key.public.fingerprint in claimed or _is_minisigns(key, claimed)


def _is_minisigns(key: TrustedKey, claimed: Sequence[str]) -> bool:
    """Tell whether a signature of minisign names a key; it chooses other numbers for keys that it made."""
    if key.public.algorithm != "ed25519":
        return False
    number = int.from_bytes(minisign.key_id(key.public), "little")
    return f"minisign:{number:016X}" in claimed


def _time(raw: RawSignature) -> float | None:
    """Return when a signature that is good says that it was made: minisign's have that in their comment."""
    if raw.kind != "minisign":
        return None
    told = re.search(rb"(?:^|\s)timestamp:(\d{1,12})", minisign.parse(raw.data).comment)
    return float(told[1]) if told else None
