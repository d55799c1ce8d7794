"""Judge evidence by a policy: which of it is good, and is it what the policy requires?

What is found is checked in one order, and each thing fails at one cause: it is not signed (30); it is signed
by no key of the policy, or altered since (31); it is about something else (32); its key does not count now
(33); its key may not sign this, or what it says is not allowed (34). Of all that could prove a requirement,
the one that came farthest tells what is missing; of several requirements, the one with the most basic cause
is the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from buildstep.system.text import plural
from buildstep.trust.policy import ARCHIVE, PINNED, Policy, Rule, TrustedKey, allows, day_of
from buildstep.trust.verify import bills
from buildstep.trust.verify.checks import check_all
from buildstep.trust.verify.evidence import Evidence
from buildstep.trust.verify.found import Found
from buildstep.trust.verify.report import Report, Row, State
from buildstep.trust.verify.statements import UNREADABLE

_DAY: Final = 86400.0
_SLACK: Final = _DAY
"""A time may be so far ahead of this machine's clock."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cause:
    """Why a requirement is not met."""

    state: State
    text: str


def judge(evidence: Evidence, policy: Policy, now: float) -> Report:
    """Return the answer about an artifact. now: seconds since the epoch.

    What is damaged is refused whatever else there is. So is a file beside which there is a signature or
    statement that names a key of the policy and was not made by it for these bytes: somebody altered
    something.
    """
    found = [] if evidence.damage else check_all(evidence, policy.keys)
    rule = policy.rule_for(evidence.names)
    judged = [_judged(it, rule, policy, now) for it in found]
    causes = list(_causes(evidence, policy, rule, judged, now))
    broken = [_Cause(state=State.WRONG_KEY, text=evidence.damage)] if evidence.damage else []
    if evidence.path is not None:  # in a registry, whoever may push may put anything beside it
        broken += [_Cause(state=it.state, text=f"{it.where}: {it.text}") for it in found if it.broken]
        broken += [_Cause(state=State.WRONG_KEY, text=text) for text in _other_bills(evidence, judged)]
    causes = broken or sorted(causes, key=lambda cause: cause.state)
    report = Report(
        name=evidence.name, policy=policy.where, digests=dict(evidence.digests),
        rows=tuple(_row(it) for it in judged),
        state=causes[0].state if causes else State.GOOD,
        reasons=tuple(dict.fromkeys(cause.text for cause in causes)),
    )  # fmt: skip
    return _excepted(report, evidence, policy, now) if causes and not broken else report


def _other_bills(evidence: Evidence, judged: Sequence[Found]) -> list[str]:
    """Return which bills of materials beside an artifact are not those that were signed."""
    good = {it.where for it in judged if it.proof == "sbom" and it.state is State.GOOD}
    if evidence.stem is None or not good:
        return []
    wrong = bills.altered(evidence.stem, (it.data for it in evidence.envelopes if it.where in good))
    return [wrong] if wrong else []


def _row(found: Found) -> Row:
    key = found.key.name if found.key is not None else ""
    return Row(
        proof=found.proof, where=found.where, state=found.state, text=found.text, key=key,
        fingerprint=found.key.public.fingerprint if found.key is not None else found.signer,
    )  # fmt: skip


def _excepted(report: Report, evidence: Evidence, policy: Policy, now: float) -> Report:
    """Return a report of what is refused, let through where an exception says so."""
    exception = policy.exception_for(evidence.names, evidence.subjects, now)
    if exception is None:
        return report
    if now < exception.until:
        return replace(report, exception=f"{exception.reason} (until {day_of(exception.until - 1)})")
    over = (
        f"the exception for it ({exception.reason}) has expired at the end of {day_of(exception.until - 1)}"
    )
    return replace(report, state=State.EXPIRED, reasons=(over, *report.reasons))


# -- one thing that was found


def _judged(found: Found, rule: Rule | None, policy: Policy, now: float) -> Found:
    """Return what was found with what the policy says of it: whether its key counts now, for this."""
    if found.state is not State.GOOD or found.key is None:
        return found
    key = found.key
    if told := key.untimely(now):
        return replace(found, state=State.EXPIRED, text=told)
    if told := _denied(found, key, rule, policy):
        return replace(found, state=State.DENIED, text=told)
    return found


def _denied(found: Found, key: TrustedKey, rule: Rule | None, policy: Policy) -> str:
    """Return why a policy does not let something count that is good, empty where it does."""
    if rule is not None and key.name not in rule.keys:
        return f"the key {key.name} does not count for this rule of {policy.where}"
    if found.proof not in key.may:
        return f"the key {key.name} may not sign {found.proof}"
    if found.proof == "provenance":
        of_rule = rule.builders if rule is not None else None
        for patterns, whose in ((key.builders, f"the key {key.name}"), (of_rule, "the rule")):
            if patterns is not None and not allows(patterns, found.builder):
                return f"{whose} does not allow the builder {found.builder or '(none is named)'}"
    return found.refused


# -- what is required


def _causes(
    evidence: Evidence, policy: Policy, rule: Rule | None, judged: Sequence[Found], now: float
) -> Sequence[_Cause]:
    """Return why an artifact is refused; nothing where it is not."""
    if rule is None:
        text = f"no rule of {policy.where} is about it (known as {', '.join(evidence.names)})"
        return [_Cause(state=State.DENIED, text=text)]
    causes = [cause for proof in rule.require if (cause := _unmet(proof, evidence, rule, judged))]
    return causes or _too_old(evidence, rule, judged, now)


def _unmet(proof: str, evidence: Evidence, rule: Rule, judged: Sequence[Found]) -> _Cause | None:
    """Return why a requirement is not met, None where it is."""
    if proof == ARCHIVE:
        if evidence.source:
            return None
        return _Cause(state=State.DENIED, text="no archive of packages vouches for it")
    if proof == PINNED:
        if evidence.subjects & set(rule.digests):
            return None
        digests = ", ".join(f"sha256:{digest}" for digest in sorted(evidence.subjects)) or "none"
        return _Cause(state=State.WRONG_SUBJECT, text=f"it is none of the digests of the rule, but {digests}")
    for_it = [found for found in judged if found.proof in (proof, UNREADABLE)]
    keys = {_identity(found) for found in for_it if found.state is State.GOOD}
    if len(keys) >= rule.threshold:
        return None
    if keys:
        text = f"{proof}: {len(keys)} of {plural(rule.threshold, 'key')} that must have signed it"
        return _Cause(state=State.DENIED, text=text)
    if for_it:
        best = max(for_it, key=lambda found: found.state)
        return _Cause(state=best.state, text=f"{proof}: {best.where}: {best.text}")
    if any(found.state > State.WRONG_SUBJECT for found in judged):
        return _Cause(state=State.DENIED, text=f"there is no {_SAID.get(proof, proof)}")
    return _Cause(state=State.UNSIGNED, text=f"there is no {_SAID.get(proof, proof)} of it")


_SAID: Final[Mapping[str, str]] = {
    "provenance": "statement of its provenance",
    "sbom": "statement with its bill of materials",
    "tests": "statement of its tests",
    "vulnerabilities": "statement of its vulnerabilities",
}


def _identity(found: Found) -> str:
    """Return which key has signed something: two names of one key are one signer."""
    assert found.key is not None
    return found.key.public.fingerprint


def _too_old(evidence: Evidence, rule: Rule, judged: Sequence[Found], now: float) -> Sequence[_Cause]:
    """Return why an artifact that is good is too old, if it is. Its age is told by its provenance, else by
    the image itself, else by a signature that has a time in it."""
    if math.isinf(rule.max_age):
        return []
    good = [(it.proof, it.time) for it in judged if it.state is State.GOOD and it.time is not None]
    stated = [time for proof, time in good if proof == "provenance"]
    imaged = [evidence.created] if evidence.created is not None else []
    made = max(stated or imaged or [time for _, time in good], default=None)
    if made is None:
        text = "nothing that is signed tells when it was made, and the policy wants to know"
        return [_Cause(state=State.DENIED, text=text)]
    if made > now + _SLACK:
        return [
            _Cause(state=State.EXPIRED, text=f"it says that it was made on {day_of(made)}, later than now")
        ]
    if now - made > rule.max_age:
        days = f"{(now - made) / _DAY:.0f} days, {rule.max_age / _DAY:.3g} are allowed"
        return [_Cause(state=State.EXPIRED, text=f"it is too old: made on {day_of(made)}, {days}")]
    return []
