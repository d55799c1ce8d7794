"""Regular expressions of templates, which must not hang us: their states are followed side by side.

Python's own matcher tries one way after the other, and for some patterns the ways double with each character.
Here all ways are followed at once, so that the time is bounded by states times characters. Python parses the
pattern; look-around and back references cannot be followed so, and are refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any, Final

from buildstep.errors import UsageError

MOST_STATES: Final = 2000
LONGEST: Final = 1000
"""Characters of a pattern, and of an answer that is held against one."""

Test = Callable[[str, int], bool]


class PatternError(UsageError):
    """A pattern that is wrong, or that we do not follow."""


def fault_of(pattern: str) -> str:
    """Return why a pattern cannot be used, an empty text if it can."""
    try:
        _Machine(pattern)
    except PatternError as error:
        return error.message
    return ""


def begins(pattern: str, text: str) -> bool:
    """Return whether a pattern matches at the beginning of a text, as `re.match` does; in bounded time.

    Raises PatternError; a text of more than LONGEST characters matches nothing.
    """
    return len(text) <= LONGEST and _Machine(pattern).begins(text)


class _Machine:
    """States: each has a test that a character must pass (None: none is taken) and the states that follow."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > LONGEST:
            raise PatternError(f"the regular expression has more than {LONGEST} characters")
        from re import _parser  # type: ignore[attr-defined]

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                parsed = _parser.parse(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise PatternError(f"this is no regular expression: {error}") from None
        self.flags = parsed.state.flags
        self.tests: list[tuple[str, Any]] = [("end", None)]
        self.next: list[list[int]] = [[]]
        try:
            self.first = self._sequence(list(parsed), 0)
        except RecursionError:
            raise PatternError("the regular expression is nested too deeply") from None

    def _state(self, kind: str, what: Any, following: list[int]) -> int:
        if len(self.tests) >= MOST_STATES:
            raise PatternError("the regular expression repeats too much")
        self.tests.append((kind, what))
        self.next.append(following)
        return len(self.tests) - 1

    def _sequence(self, parts: list[Any], then: int) -> int:
        for operator, argument in reversed(parts):
            then = self._part(str(operator), argument, then)
        return then

    def _part(self, operator: str, argument: Any, then: int) -> int:
        if operator in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            return self._state(operator, argument, [then])
        if operator == "AT":
            return self._state("AT", str(argument), [then])
        if operator == "BRANCH":
            return self._state("", None, [self._sequence(list(part), then) for part in argument[1]])
        if operator == "SUBPATTERN":
            _, added, removed, inner = argument
            if added or removed:
                raise PatternError("the regular expression has flags inside a group")
            return self._sequence(list(inner), then)
        if operator in ("MAX_REPEAT", "MIN_REPEAT"):
            return self._repeat(argument, then)
        words = {"ASSERT": "look-around", "ASSERT_NOT": "look-around", "GROUPREF": "a back reference"}
        raise PatternError(
            f"the regular expression has {words.get(operator, operator.lower())}, which is not followed"
        )

    def _repeat(self, argument: Any, then: int) -> int:
        least, most, inner = argument
        parts = list(inner)
        if int(most) >= int(re._parser.MAXREPEAT):  # type: ignore[attr-defined]
            loop = self._state("", None, [])
            self.next[loop] = [self._sequence(parts, loop), then]
            then = loop
        else:
            for _ in range(int(most) - least):
                then = self._state("", None, [self._sequence(parts, then), then])
        for _ in range(least):
            then = self._sequence(parts, then)
        return then

    def begins(self, text: str) -> bool:
        """Return whether some way through the states comes to the end."""
        states = self._reach([self.first], text, 0)
        for at, character in enumerate(text):
            if 0 in states or not states:
                break
            taken = [self.next[state][0] for state in states if self._takes(state, character)]
            states = self._reach(taken, text, at + 1)
        return 0 in states

    def _reach(self, states: list[int], text: str, at: int) -> set[int]:
        """Return these states and all that follow without taking a character."""
        found: set[int] = set()
        while states:
            state = states.pop()
            if state in found:
                continue
            found.add(state)
            kind, what = self.tests[state]
            if kind == "" or (kind == "AT" and self._is_at(what, text, at)):
                states += self.next[state]
        return found

    def _is_at(self, what: str, text: str, at: int) -> bool:
        # One position tells: the pattern of the anchor alone, held against the text there.
        anchor = {
            "AT_BEGINNING": "^", "AT_BEGINNING_STRING": r"\A", "AT_END": "$", "AT_END_STRING": r"\Z",
            "AT_BOUNDARY": r"\b", "AT_NON_BOUNDARY": r"\B",
        }[what]  # fmt: skip
        return re.compile(anchor, self.flags & (re.MULTILINE | re.ASCII)).match(text, at) is not None

    def _takes(self, state: int, character: str) -> bool:
        kind, what = self.tests[state]
        if kind in ("", "AT", "end"):
            return False
        if kind == "ANY":
            return character != "\n" or bool(self.flags & re.DOTALL)
        same = {character}
        if self.flags & re.IGNORECASE:
            same |= {character.lower(), character.upper()}
        if kind == "IN":
            return self._is_in(what, same)
        return any(ord(one) == what for one in same if len(one) == 1) is (kind == "LITERAL")

    def _is_in(self, members: list[Any], same: set[str]) -> bool:
        negated = str(members[0][0]) == "NEGATE"
        return negated != any(
            self._is_member(member, one) for member in members for one in same if len(one) == 1
        )

    def _is_member(self, member: Any, character: str) -> bool:
        operator, argument = str(member[0]), member[1]
        if operator == "LITERAL":
            return bool(ord(character) == argument)
        if operator == "RANGE":
            return bool(argument[0] <= ord(character) <= argument[1])
        if operator == "CATEGORY":
            letter = {"DIGIT": "d", "SPACE": "s", "WORD": "w"}[str(argument).rpartition("_")[2]]
            sign = letter.upper() if "_NOT_" in str(argument) else letter
            return re.compile(rf"\{sign}", self.flags & re.ASCII).match(character) is not None
        return False
