"""The answer about an artifact: what was checked, who has signed it, and one verdict with one exit code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from buildstep.errors import (
    BuildstepError,
    DeniedError,
    ExitCode,
    ExpiredError,
    UnsignedError,
    WrongKeyError,
    WrongSubjectError,
)
from buildstep.system.text import printable


class State(IntEnum):
    """How far something that was found has come: what it fails at, in the order in which it is checked.

    A later one is nearer to being good. The numbers are the exit codes.
    """

    UNSIGNED = ExitCode.UNSIGNED
    WRONG_KEY = ExitCode.WRONG_KEY
    WRONG_SUBJECT = ExitCode.WRONG_SUBJECT
    EXPIRED = ExitCode.EXPIRED
    DENIED = ExitCode.DENIED
    GOOD = 99

    @property
    def word(self) -> str:
        return _WORDS[self]

    @property
    def code(self) -> int:
        """The exit code for an artifact that fails at it."""
        return 0 if self is State.GOOD else int(self)


_LONGEST: Final = 2000
"""Characters of a line for people."""

_WORDS: Final = {
    State.UNSIGNED: "unsigned",
    State.WRONG_KEY: "wrong key or altered",
    State.WRONG_SUBJECT: "wrong subject",
    State.EXPIRED: "expired",
    State.DENIED: "denied",
    State.GOOD: "verified",
}
_ERRORS: Final[dict[State, type[BuildstepError]]] = {
    State.UNSIGNED: UnsignedError,
    State.WRONG_KEY: WrongKeyError,
    State.WRONG_SUBJECT: WrongSubjectError,
    State.EXPIRED: ExpiredError,
    State.DENIED: DeniedError,
}
_HINTS: Final = {
    State.UNSIGNED: "`buildstep sign` signs it; is what lies beside it complete?",
    State.WRONG_KEY: "get it again from whoever has signed it, or trust the key that has",
    State.WRONG_SUBJECT: "get what was signed together with it",
    State.EXPIRED: "have it signed again by a key that counts now",
    State.DENIED: "the policy decides; an exception with a reason and an end may let it through",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One thing that was found and checked. proof: what it could prove, such as `signature` or `provenance`;
    where: it was found; text: what is wrong with it, or what it says; key: the name of the key in the policy
    that has signed it; fingerprint: of whoever did, as far as that is known."""

    proof: str
    where: str
    state: State
    text: str = ""
    key: str = ""
    fingerprint: str = ""

    @property
    def signer(self) -> str:
        """Who signed it, for people; empty for nobody who is known."""
        return f"{self.key} ({self.fingerprint})" if self.key else self.fingerprint

    def to_json(self) -> dict[str, Any]:
        return {
            "proof": self.proof, "where": self.where, "state": self.state.word, "text": self.text,
            "key": self.key, "fingerprint": self.fingerprint,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The answer. reasons: what is wrong, the one that the verdict is about first; exception: the reason of
    an exception that lets it through, empty for none; policy: where the policy came from."""

    name: str
    policy: str
    digests: dict[str, str] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    state: State = State.GOOD
    reasons: tuple[str, ...] = ()
    exception: str = ""

    @property
    def code(self) -> int:
        """The exit code: 0, or the one of the cause."""
        return 0 if self.exception else self.state.code

    @property
    def verdict(self) -> str:
        return "let through" if self.exception else self.state.word

    @property
    def signers(self) -> tuple[str, ...]:
        """Who has signed what is good, each once."""
        good = [row.signer for row in self.rows if row.state is State.GOOD and row.signer]
        return tuple(dict.fromkeys(good))

    def lines(self) -> Iterator[str]:
        """Yield the report for people. What is about other artifacts only tells something where nothing is
        about this one."""
        by = f", signed by {', '.join(self.signers)}" if self.signers and not self.code else ""
        yield _line(f"{self.name}: {self.verdict}{by}")
        for row in self.rows:
            if row.state is State.WRONG_SUBJECT and not self.code:
                continue
            # Whoever made what is good is proved; what another names is what it says.
            by = f" {'by' if row.key else 'said to be by'} {row.signer}" if row.signer else ""
            told = f": {row.text}" if row.text else ""
            yield _line(f"  {row.proof:15} {row.state.word:20} {row.where}{by}{told}")
        if self.exception:
            yield _line(f"  let through although: {'; '.join(self.reasons)}")
            yield f"  exception: {self.exception}"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "verdict": self.verdict, "code": self.code, "digests": dict(self.digests),
            "signers": list(self.signers), "reasons": list(self.reasons), "exception": self.exception,
            "policy": self.policy, "checked": [row.to_json() for row in self.rows],
        }  # fmt: skip

    def error(self, what: str = "") -> BuildstepError | None:
        """Return the failure that it is; None where it is none. what: it is, such as `the base image `."""
        if not self.code:
            return None
        detail = [_line(f"  {reason}") for reason in self.reasons[1:]] + [f"  policy: {self.policy}"]
        return _ERRORS[self.state](
            _line(f"{what}{self.name}: {self.reasons[0]}"), detail="\n".join(detail), hint=_HINTS[self.state]
        )


def _line(text: str) -> str:
    """Return a line as a person is shown it: whoever wrote what was found has chosen words of it."""
    text = printable(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def worst(reports: Sequence[Report]) -> Report:
    """Return the answer about several artifacts: that with the most basic cause, by the order of `State`."""
    failed = [report for report in reports if report.code]
    return min(failed, key=lambda report: report.code) if failed else reports[0]
