"""What the checks of an image have found, as a statement that is bound to its digests.

The form is the predicate "Test Result" v0.1 of in-toto/attestation (spec/predicates/test-result.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Final

from buildstep.report.record import Check
from buildstep.spec.load import BuildSpec
from buildstep.trust.statements import STATEMENTS
from buildstep.trust.statements.statement import Statement, Subject

TYPE: Final = STATEMENTS["tests"].predicate_types[0]


def statement(spec: BuildSpec, checks: Sequence[Check], subjects: tuple[Subject, ...]) -> Statement | None:
    """Return how the checks of an image have ended; None where it was held to none.

    A rule with a finding that is no failure counts as one that warned; what was skipped is in no list.
    """
    names = {
        result: sorted({_name(check) for check in checks if check.result == result})
        for result in ("passed", "warned", "failed")
    }
    if not any(names.values()):
        return None
    result = "FAILED" if names["failed"] else "WARNED" if names["warned"] else "PASSED"
    asked = json.dumps([spec.checks, spec.allow], sort_keys=True, separators=(",", ":"), default=list)
    predicate = {
        "result": result,
        "configuration": [
            {"name": "build.checks", "digest": {"sha256": hashlib.sha256(asked.encode()).hexdigest()}}
        ],
        **{f"{kind}Tests": rows for kind, rows in names.items()},
    }
    return Statement(subjects, TYPE, predicate)


def _name(check: Check) -> str:
    return f"{check.group}: {check.check}" if check.group else check.check
