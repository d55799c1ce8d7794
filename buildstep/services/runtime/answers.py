"""What an action's return value means: one table for all of them.

The old tools took True, False, "r", "nr" and whatever else, each place in its own way; here every value is an
answer or a failure that says what was returned.
"""

from __future__ import annotations

import json
from typing import Any

OK, NOT, FAILED, RESTART, NO_RESTART = "ok", "not", "failed", "restart", "no-restart"
"""As `interface.Answer`."""

CHECKS = frozenset({"check_requirements", "check_up", "check_down", "monitor"})
"""Actions that ask: False is an answer of theirs, and no failure."""

WITH_RESULT = frozenset({"build", "init", "consume", "data_export", "data_import", "test"})
"""Actions that may return anything that JSON has: it is their result."""

ACTIONS = (
    "build", "init", "consume", "check_requirements", "install", "prepare", "configure", "stop", "halt",
    "check_down", "start", "check_up", "monitor", "cleanup", "test", "data_export", "data_import",
    "uninstall", "removedata",
)  # fmt: skip
"""As `interface.Action`."""

_LONGEST = 200


class Failure(Exception):
    """An action cannot do what it is for.

    message: what happened, in one line; it becomes the outcome's. retryable: whether beginning the action
    again may help; it is begun again if its call allows more than one try.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


def answer_of(action: str, value: Any) -> tuple[str, str, Any]:
    """Return answer, message and result that a method's return value stands for.

    True and None are OK. False is NOT of a check, else FAILED. "r" and "nr" are of configure. The answers'
    own names stand for themselves, where the action can have them.
    """
    if value is None or value is True:
        return OK, "", None
    if value is False:
        return (NOT, "", None) if action in CHECKS else (FAILED, f"{action} returned False", None)
    if isinstance(value, str):
        said = {"r": RESTART, "nr": NO_RESTART}.get(value, value) if action == "configure" else value
        if said in _possible(action):
            return said, (f"{action} returned {value!r}" if said == FAILED else ""), None
    if action in WITH_RESULT:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            return FAILED, f"{action} returned what has no form in JSON: {error}", None
        return OK, "", value
    shown = repr(value)
    shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
    return FAILED, f"{action} returned {shown}: none of {', '.join(_words(action))}", None


def _possible(action: str) -> tuple[str, ...]:
    if action in CHECKS:
        return OK, NOT, FAILED
    return (OK, FAILED, RESTART, NO_RESTART) if action == "configure" else (OK, FAILED)


def _words(action: str) -> tuple[str, ...]:
    more = ("'r'", "'nr'") if action == "configure" else ()
    return ("True", "None", "False", *more, *map(repr, _possible(action)))
