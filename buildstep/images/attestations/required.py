"""Whether an image may be published: what is said of it here is judged before the first byte is sent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from buildstep.errors import (
    BuildstepError,
    DeniedError,
    SigningError,
    UnsignedError,
    UsageError,
    WrongKeyError,
)
from buildstep.images.attestations.local import NOBODY, Signing
from buildstep.system.text import plural
from buildstep.trust import dsse
from buildstep.trust.signatures import bundle, sshsig
from buildstep.trust.signatures.content import content_of
from buildstep.trust.statements import REQUIREMENTS, kind_of, statement
from buildstep.trust.verify.evidence import Evidence, RawSignature
from buildstep.trust.verify.statements import refused

if TYPE_CHECKING:
    from buildstep.trust.policy import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What has to be proved of an image that is published. require: of `REQUIREMENTS`; policy: by which keys,
    None where nobody says; signing: keys that sign what is not signed yet, and are trusted then."""

    require: tuple[str, ...] = ()
    policy: Policy | None = None
    signing: Signing = NOBODY

    def __bool__(self) -> bool:
        return bool(self.require) or self.policy is not None


NOTHING: Final = Demand()


def words_of(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the words of lists such as `tests,signature`. Raises UsageError for one that is not known."""
    words = list(dict.fromkeys(word for text in texts for word in text.replace(",", " ").split()))
    unknown = [word for word in words if word not in REQUIREMENTS]
    if unknown:
        raise UsageError(
            f"--require: {', '.join(unknown)} is not known", hint=f"it can be {', '.join(REQUIREMENTS)}"
        )
    return tuple(words)


def check(evidence: Evidence, demand: Demand) -> None:
    """Raise the error of what is missing, or does not count; see `trust.verify.judge` for the exit codes.

    evidence: as it is here, and as it will be there. With neither a policy nor a key of ours nobody says
    whose signatures count: then each thing has to be there, about this image, and signed.
    """
    if not demand:
        return
    missing = None if demand.policy is None and not demand.signing else _judged(evidence, demand)
    missing = missing or _missing(evidence, demand.require)
    if missing is not None:
        text = f"nothing was published: {missing.message}"
        raise type(missing)(text, detail=missing.detail, hint=missing.hint) from missing


def _judged(evidence: Evidence, demand: Demand) -> BuildstepError | None:
    from buildstep.trust.policy import of_keys
    from buildstep.trust.verify.judge import judge

    if demand.policy is not None:
        policy = demand.policy.requiring(demand.require)
    else:
        policy = of_keys([("--sign-key", one.public) for one in demand.signing.signers], demand.require)
    return judge(evidence, policy, time.time()).error()


def _missing(evidence: Evidence, require: Sequence[str]) -> BuildstepError | None:
    """Return what is wrong, with all of it: that nobody has signed anything, sooner than that one thing is
    missing. None where nothing is."""
    if evidence.damage:
        return WrongKeyError(f"{evidence.name}: {evidence.damage}", hint="build it again")
    signed: dict[str, bool] = {}
    for raw in evidence.signatures:
        signed["signature"] = signed.get("signature", False) or _is_of_it(raw, evidence)
    failed = []
    for line in evidence.envelopes:
        try:
            envelope = dsse.parse(line.data)
            stated = statement.parse(envelope.payload)
        except SigningError:
            continue
        if envelope.payload_type != statement.PAYLOAD_TYPE:
            continue
        kind = kind_of(stated.predicate_type)
        if kind is None or not any(stated.subject_of({"sha256": hexa}) for hexa in evidence.subjects):
            continue
        signed[kind.proves] = signed.get(kind.proves, False) or bool(envelope.signatures)
        if kind.proves == "tests" and refused(stated.predicate):
            failed.append(_tests(stated.predicate))
    lines = [f"{word}: nobody has stated it of this image" for word in require if word not in signed]
    lines += [f"{word}: nobody has signed it" for word in require if not signed.get(word, True)]
    lines += failed if "tests" in require else []
    if not lines:
        return None
    if not any(signed.values()):
        hint = "buildstep sign, or --sign-key KEY; `build.trust` of the m.json has statements written"
        return UnsignedError(f"{evidence.name} is not signed", detail="\n".join(lines), hint=hint)
    hint = "have it written by the build: `build.trust` and checks of the m.json"
    return DeniedError(f"{evidence.name} is not what is required", detail="\n".join(lines), hint=hint)


def _is_of_it(raw: RawSignature, evidence: Evidence) -> bool:
    """Tell whether a signature says by itself that it is of a file's bytes: OpenSSH's has its key, a bundle
    the digest. Of others only a key tells."""
    if evidence.path is None:
        return False
    with contextlib.suppress(SigningError), content_of(evidence.path) as content:
        if raw.kind == "sshsig":
            return bool(sshsig.good_blocks(raw.data, content))
        if raw.kind == "bundle":
            found = bundle.parse(raw.data)
            return bool(found.signature) and found.digest == content.sha256
    return False


def _tests(predicate: Mapping[str, Any]) -> str:
    names = predicate.get("failedTests")
    rows = [str(name) for name in names] if isinstance(names, list) else []
    more = f": {', '.join(rows[:5])}" if rows else ""
    return f"{plural(len(rows), 'test')} failed{more}" if rows else refused(predicate)
