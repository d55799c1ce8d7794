"""The policies for the base image: whether they can be read, and whether their keys count."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from buildstep.build.doctor.findings import Examination
from buildstep.errors import ExitCode
from buildstep.system.text import plural

if TYPE_CHECKING:
    from buildstep.trust.policy import Policy

_SOON: Final = 30 * 86400.0
"""Seconds before the end of a key at which that is told."""


def readable(seen: Examination) -> None:
    """Whether each policy that the base has to keep is one. A faulty one is an error of its own."""
    asked = seen.spec.proof.base if seen.spec is not None else None
    named = dict.fromkeys((*([asked] if asked else []), *seen.config.base_policies))
    if not named:
        return
    from buildstep.trust import policy

    for path in named:
        _told(seen, policy.load(Path(path)))


def _told(seen: Examination, found: Policy) -> None:
    from buildstep.trust.policy import day_of

    now = time.time()
    counting = [key for key in found.keys if not key.untimely(now)]
    if found.keys and not counting:
        why = "; ".join(key.untimely(now) for key in found.keys)
        seen.fail("policy", found.where, why, "put a key into it that counts now", ExitCode.EXPIRED)
        return
    ending = [f"{key.name} on {day_of(key.until - 1)}" for key in counting if key.until - now < _SOON]
    keys, rules = plural(len(found.keys), "key"), plural(len(found.rules), "rule")
    text = f"{keys}, {len(counting)} of which count; {rules}"
    if ending:
        fix = "sign with a new key in time"
        seen.warn("policy", found.where, f"{text}; soon to end: {', '.join(ending)}", fix)
    else:
        seen.ok("policy", found.where, text)
