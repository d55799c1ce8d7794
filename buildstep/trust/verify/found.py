"""One thing that evidence proves, or fails at proving."""

from __future__ import annotations

from dataclasses import dataclass, replace

from buildstep.trust.policy import TrustedKey
from buildstep.trust.verify.report import State


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What was found and checked. proof, where, state, text: see `report.Row`.

    key: of the policy, that has signed it; signer: the fingerprint of another that has, where it is told;
    broken: it names a key of the policy, or is by it, and is not what that has signed: it is never passed
    over; named: it tells by a name that it is of this artifact, whose bytes are others; time: when it says
    that what it is about was made; builder: that provenance names; refused: why what it says does not count
    although it is true, such as tests that failed.
    """

    proof: str
    where: str
    state: State
    text: str = ""
    key: TrustedKey | None = None
    signer: str = ""
    broken: bool = False
    named: bool = False
    time: float | None = None
    builder: str = ""
    refused: str = ""

    def failed(self, state: State, text: str) -> Found:
        """Return it as it fails."""
        return replace(self, state=state, text=text)

    def by(self, key: TrustedKey, *, time: float | None = None) -> Found:
        """Return it as made by a key."""
        return replace(self, key=key, time=time)

    def with_text(self, text: str) -> Found:
        return replace(self, text=text)
