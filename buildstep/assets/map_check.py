"""What is wrong with mappings: patterns that no host can win, ties, and pairs that cross each other."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from buildstep.assets import globs
from buildstep.assets.globs import ANY, ONE, Class
from buildstep.assets.interface import Mappings
from buildstep.assets.patterns import Pattern, Patterns, is_tie, why

Kind = Literal["fault", "malformed", "never", "tie", "crossing"]

MOST_PAIRS: Final = 200_000
"""Pairs of patterns that are compared; more than that are said to be left out. A pair with other wildcards
than stars counts as many, as that takes as long."""

_SLOW: Final = 200

MOST_CROSSINGS: Final = 1000
"""Pairs that are told. Whoever has more has no use for a longer list."""

_MOST_STATES = 20_000
_MOST_NAMES = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing to look at. kind: `never`: no host can win this pattern; `tie`: only the order of bytes says
    which of two wins; `crossing`: two match some hosts in common and others not. example: such a host."""

    kind: Kind
    pattern: str
    text: str
    other: str = ""
    example: str = ""

    @property
    def wrong(self) -> bool:
        """Whether it is an error, and not only worth a look."""
        return self.kind != "crossing"

    def __str__(self) -> str:
        # The others' text names the pattern.
        return f"{self.pattern!r} {self.text}" if self.kind in ("malformed", "never") else self.text


def check(mappings: Mappings, *, compat: bool = False) -> list[Finding]:
    """Return what is wrong with mappings, or worth a look, by pattern. compat: the longest pattern wins."""
    known = Patterns(mappings.services)
    found = [Finding(kind="fault", pattern="", text=text) for text in mappings.faults]
    found += [
        Finding(kind="malformed", pattern=text, text=f"is no pattern: {reason}")
        for text, reason in sorted(known.malformed.items())
    ]
    live = []
    for pattern in known.well_formed():
        never = _never(pattern, known, compat)
        if never is None:
            live.append(pattern)
        else:
            found.append(never)
    return [*found, *_pairs(live, compat)]


# -- patterns that no host can win -------------------------------------------------------------------------


def _never(pattern: Pattern, known: Patterns, compat: bool) -> Finding | None:
    """Return why no host can win a pattern; None if one can, or if that is not found out."""
    name = pattern.text
    if not name:
        return Finding(kind="never", pattern=name, text="matches no host: none has an empty name")
    if pattern.has_slash:
        return Finding(kind="never", pattern=name, text="matches no host: none has a / in its name")
    witness = _shortest(pattern)
    if witness is None:
        return Finding(
            kind="never", pattern=name, text="matches no host: a class of characters in it has none"
        )
    rank = pattern.rank(compat=compat)
    better = [it for it in known.matching(witness) if it.rank(compat=compat) < rank]
    for other in sorted(better, key=lambda it: it.rank(compat=compat)):
        if contains(other, pattern):
            reason = why(other, pattern, compat=compat)
            text = f"wins no host: {other.text!r} matches all that it matches, and it {reason}"
            return Finding(kind="never", pattern=name, other=other.text, text=text)
    if better and (names := _all_names(pattern)):
        winners = {known.resolve(host, compat=compat).winner for host in names}
        if name not in winners:
            listed = ", ".join(sorted(map(repr, winners)))
            return Finding(
                kind="never", pattern=name, text=f"wins no host: all that it matches are won by {listed}"
            )
    return None


def _shortest(pattern: Pattern) -> str | None:
    """Return the shortest name that a pattern matches, None if there is none."""
    text = ""
    for part in pattern.parts:
        if isinstance(part, globs.Literal):
            text += part.text
        elif isinstance(part, Class):
            char = next(filter(part.has, _alphabet([pattern])), None)
            if char is None:
                return None
            text += char
        elif part == ONE:
            text += "x"
    return text or "x"


def _all_names(pattern: Pattern) -> list[str]:
    """Return all names that a pattern matches if it has no wildcards but classes of few; else none."""
    choices = []
    count = 1
    for part in pattern.parts:
        if isinstance(part, globs.Literal):
            choices.append([part.text])
            continue
        if not isinstance(part, Class) or part.negated:
            return []
        codes = {
            code for low, high in part.ranges for code in range(ord(low), min(ord(high), ord(low) + 999) + 1)
        }
        choices.append([chr(code) for code in sorted(codes) if chr(code) != "/"])
        count *= len(codes)
        if count > _MOST_NAMES:
            return []
    return ["".join(chars) for chars in itertools.product(*choices)]


# -- pairs -------------------------------------------------------------------------------------------------


def _pairs(live: list[Pattern], compat: bool) -> Iterator[Finding]:
    """Yield what two patterns have in common where neither is only a narrower one of the other."""
    told = cost = 0
    for number, (one, other) in enumerate(_near(live)):
        cost += 1 if _kinds(one) == _kinds(other) == {ANY} else _SLOW
        if cost > MOST_PAIRS or told == MOST_CROSSINGS:
            text = f"only the first {number:,} pairs of patterns that begin and end alike were compared"
            yield Finding(kind="crossing", pattern="", text=text)
            return
        first, second = sorted((one, other), key=lambda it: it.rank(compat=compat))
        tie = is_tie(one, other, compat=compat)
        if not tie and (contains(second, first) or contains(first, second)):
            continue  # an exception to a rule, as it is meant
        example = common(one, other)
        if example is None:
            continue
        told += 1
        reason = why(first, second, compat=compat)
        text = f"{first.text!r} wins {example!r} against {second.text!r}, which {reason}"
        kind: Kind = "tie" if tie else "crossing"
        yield Finding(kind=kind, pattern=first.text, other=second.text, example=example, text=text)


def _near(live: list[Pattern]) -> Iterator[tuple[Pattern, Pattern]]:
    """Yield each pair of patterns with wildcards whose literal beginnings and ends fit each other once."""
    exact: dict[tuple[str, str], list[Pattern]] = {}  # by beginning and end
    longer: dict[tuple[str, str], list[Pattern]] = {}  # by beginning, and what an end ends with
    for pattern in sorted((it for it in live if it.wildcards), key=lambda it: (len(_end(it, 0)), it.text)):
        head, tail = _end(pattern, 0), _end(pattern, -1)
        ends = [tail[at:] for at in range(1, len(tail) + 1)]
        # Those with a shorter beginning, or the same, are in the tables already.
        for begin in (head[:size] for size in range(len(head) + 1)):
            for other in longer.get((begin, tail), ()):
                yield other, pattern
            for end in ends:
                for other in exact.get((begin, end), ()):
                    yield other, pattern
        exact.setdefault((head, tail), []).append(pattern)
        for end in (tail, *ends):
            longer.setdefault((head, end), []).append(pattern)


def _end(pattern: Pattern, index: int) -> str:
    part = pattern.parts[index]
    return part.text if isinstance(part, globs.Literal) else ""


# -- sets of names -----------------------------------------------------------------------------------------

Step = Callable[[str], bool] | None
"""Tells whether a place of a pattern takes a character; None for a star, which takes any or none."""


def _steps(pattern: Pattern) -> list[Step]:
    found: list[Step] = []
    for part in pattern.parts:
        if isinstance(part, globs.Literal):
            found += [char.__eq__ for char in part.text]
        elif isinstance(part, Class):
            found.append(part.has)
        else:
            found.append(None if part == ANY else _anything)
    return found


def _anything(_char: str) -> bool:
    return True


def _alphabet(both: Iterable[Pattern]) -> list[str]:
    """Return one character of each set that these patterns do not tell apart; / is in no host's name."""
    starts = {ord("0"), ord("x")}
    for part in itertools.chain.from_iterable(it.parts for it in both):
        if isinstance(part, globs.Literal):
            starts |= {code for char in part.text for code in (ord(char), ord(char) + 1)}
        elif isinstance(part, Class):
            starts |= {code for low, high in part.ranges for code in (ord(low), ord(high) + 1)}
    # The lowest one stands for all below the first boundary. Readable ones come first, for examples.
    starts.add(1)
    chars = (chr(code) for code in starts if code < 0x110000 and chr(code) != "/")
    return sorted(chars, key=lambda char: (not char.isalnum(), not char.isprintable(), char))


def _after(steps: list[Step], places: Iterable[int], char: str) -> frozenset[int]:
    """Return the places of a pattern that are reached by one more character."""
    found: set[int] = set()
    for place in places:
        at = place
        while at < len(steps):
            step = steps[at]
            if step is None:
                found.add(at)  # a star stays where it is, or is over
                at += 1
                continue
            if step(char):
                found.add(at + 1)
            break
    return frozenset(found)


def _ended(steps: list[Step], places: Iterable[int]) -> bool:
    """Tell whether one of these places can be the end of a name."""
    return any(all(step is None for step in steps[place:]) for place in places)


def _walk(
    one: Pattern, other: Pattern, wanted: Callable[[bool, bool], bool], alive: Callable[[bool, bool], bool]
) -> str | None:
    """Return a shortest name for which `wanted` holds, given which of two patterns match it; None if none is.

    alive: whether to go on, given which can still match. Raises OverflowError where it takes too long.
    """
    first, second = _steps(one), _steps(other)
    alphabet = _alphabet((one, other))
    begin = (frozenset((0,)), frozenset((0,)))
    seen: set[tuple[frozenset[int], frozenset[int]]] = set()  # not the begin: no name is empty
    waiting = deque([(begin, "")])
    while waiting:
        (left, right), name = waiting.popleft()
        if name and wanted(_ended(first, left), _ended(second, right)):
            return name
        for char in alphabet:
            state = (_after(first, left, char), _after(second, right, char))
            if state not in seen and alive(bool(state[0]), bool(state[1])):
                seen.add(state)
                if len(seen) > _MOST_STATES:
                    raise OverflowError
                waiting.append((state, name + char))
    return None


_OTHER = "\x01"
"""A character that no pattern has as a literal."""


def _kinds(pattern: Pattern) -> set[str]:
    """Return which wildcards a pattern has: ANY, ONE, and "[" for classes."""
    return {"[" if isinstance(it, Class) else it for it in pattern.parts if not isinstance(it, globs.Literal)}


def contains(wide: Pattern, narrow: Pattern) -> bool:
    """Tell whether one pattern matches all hosts that another matches; False where that takes too long."""
    if _kinds(wide) <= {ANY}:
        # What it matches with a strange character for each wildcard, it matches with whatever is there.
        strange = (it.text if isinstance(it, globs.Literal) else _OTHER for it in narrow.parts)
        found = wide.matches("".join(strange))
        if found or "[" not in _kinds(narrow):
            return found
    try:
        return _walk(wide, narrow, lambda a, b: b and not a, lambda _, b: b) is None
    except OverflowError:
        return False


def common(one: Pattern, other: Pattern) -> str | None:
    """Return a host that both patterns match; None if there is none, or if that takes too long."""
    if _kinds(one) == _kinds(other) == {ANY}:
        head, tail = (max((_end(it, at) for it in (one, other)), key=len) for at in (0, -1))
        fits = all(head.startswith(_end(it, 0)) and tail.endswith(_end(it, -1)) for it in (one, other))
        parts = (*one.parts[1:-1], *other.parts[1:-1])
        inner = [part.text for part in parts if isinstance(part, globs.Literal)]
        return f"{head}{''.join(inner)}{tail}" if fits else None
    try:
        return _walk(one, other, lambda a, b: a and b, lambda a, b: a and b)
    except OverflowError:
        return None
