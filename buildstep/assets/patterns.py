"""Which of several patterns that match a host wins.

One wins, and its services are the host's; lists are never joined. What a pattern is: see `globs`.

1. a name without wildcards beats any pattern with some;
2. else the one with more literal characters;
3. else the one with fewer wildcards;
4. else the longer one, in bytes;
5. else the first by its bytes.

daybook itself takes the longest, wildcards counted (`compat`); of two that are as long, here the first by its
bytes: there it is left open.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from buildstep.assets.globs import ANY, ONE, Literal, Malformed, Part, parse, regex
from buildstep.errors import UsageError

_SPECIAL = re.compile(r"[*?\[\\]")
_UNUSUAL = re.compile(r"[?\[\\]")
_CLASS = re.compile(r"\[\^?[^\]\\]+\]")


@dataclass(frozen=True)
class Pattern:
    """A pattern that can be matched and compared. parts: see `parse`."""

    text: str
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, text: str) -> Pattern:
        """Return the pattern of a text. Raises Malformed."""
        return cls(text, parse(text))

    @cached_property
    def _matcher(self) -> re.Pattern[str]:
        return regex(self.parts)

    def matches(self, name: str) -> bool:
        """Tell whether it matches a whole name."""
        return self._matcher.fullmatch(name) is not None

    @cached_property
    def literals(self) -> int:
        """Characters that stand for themselves."""
        return sum(len(part.text) for part in self.parts if isinstance(part, Literal))

    @cached_property
    def wildcards(self) -> int:
        """Stars, question marks and classes."""
        return sum(not isinstance(part, Literal) for part in self.parts)

    @cached_property
    def size(self) -> int:
        """Bytes of its text."""
        return len(self.text.encode(errors="surrogatepass"))

    @cached_property
    def has_slash(self) -> bool:
        """Whether only names with a slash can match, which no host has."""
        return any(isinstance(part, Literal) and "/" in part.text for part in self.parts)

    def rank(self, *, compat: bool = False) -> tuple[object, ...]:
        """Return what patterns are ordered by; the first wins."""
        if compat:
            return -self.size, self.text
        return bool(self.wildcards), -self.literals, self.wildcards, -self.size, self.text


def matches(pattern: str, name: str) -> bool:
    """Tell whether a pattern matches a whole name. Raises Malformed."""
    return Pattern.of(pattern).matches(name)


# -- which one wins ----------------------------------------------------------------------------------------


class Loser(NamedTuple):
    """A pattern that matches a host and does not win. reason: why; a part of a sentence, that begins with a
    verb."""

    pattern: str
    services: tuple[str, ...]
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """What a host is mapped to. winner: the pattern, None if none matches; services: of the winner; losers:
    what else matches, the next best first; skipped: what looks like it, but is no pattern, and why."""

    host: str
    winner: str | None
    services: tuple[str, ...]
    losers: tuple[Loser, ...]
    skipped: tuple[tuple[str, str], ...] = ()


def checked_host(host: str) -> str:
    """Return the name of a host. Raises UsageError for one that no host can have."""
    if not host or "/" in host or host != host.strip():
        raise UsageError(f"{host!r} is no name of a host", hint="as `hostname` prints it, or give --host")
    return host


def is_tie(one: Pattern, other: Pattern, *, compat: bool = False) -> bool:
    """Tell whether only their bytes say which of two patterns wins."""
    return one.rank(compat=compat)[:-1] == other.rank(compat=compat)[:-1]


def why(winner: Pattern, loser: Pattern, *, compat: bool = False) -> str:
    """Return the reason for which one pattern loses against another; see `Loser`."""
    if compat:
        if loser.size < winner.size:
            return f"is shorter: {loser.size} bytes, not {winner.size}"
        return "is as long: a tie, which daybook leaves open; the first by its bytes wins"
    if not winner.wildcards and loser.wildcards:
        return "has wildcards, and the winner is the very name"
    if loser.literals < winner.literals:
        return f"has fewer literal characters: {loser.literals}, not {winner.literals}"
    if loser.wildcards > winner.wildcards:
        return f"has more wildcards: {loser.wildcards}, not {winner.wildcards}"
    if loser.size < winner.size:
        return f"is shorter: {loser.size} bytes, not {winner.size}"
    return "is as specific: a tie; the first by its bytes wins"


class _Row(NamedTuple):
    """What is known of a pattern without matching it. least: characters of the shortest name that it
    matches; inner: text between its first and its last wildcard, that a name has in this order; stars: it has
    no other wildcard, so that nothing else is to be known."""

    text: str
    least: int
    inner: tuple[str, ...]
    stars: bool

    def may_match(self, host: str, begin: int, end: int) -> bool:
        """Tell whether a host whose ends fit can be matched; for stars, whether it is."""
        if len(host) < self.least:
            return False
        for text in self.inner:
            at = host.find(text, begin, end)
            if at < 0:
                return False
            begin = at + len(text)
        return True


class _Shelf:
    """The rows of patterns that begin and end alike, by a text that a name has to have between the two."""

    def __init__(self) -> None:
        self._rows: dict[str, list[_Row]] = {}
        self._sizes: set[int] = set()

    def add(self, row: _Row) -> None:
        core = max(row.inner, key=len, default="")
        self._rows.setdefault(core, []).append(row)
        self._sizes.add(len(core))

    def rows(self, host: str) -> list[_Row]:
        """Return the rows whose text is in the name of a host."""
        # The shorter of two ways: all texts that there are, or all that are in the name.
        if len(self._rows) <= len(host) * len(self._sizes):
            cores = {core for core in self._rows if core in host}
        else:
            parts = {host[at : at + size] for size in self._sizes for at in range(len(host) - size + 1)}
            cores = parts & self._rows.keys()
        return [row for core in cores for row in self._rows[core]]


class Patterns:
    """Many patterns with their services, of which few are looked at for one host.

    They lie by text that a name has to begin with, to end with, and to have in between: what a host costs is
    the number of patterns that may match it, not the number of all. looked_at: patterns that were looked at
    for hosts so far; malformed: what is no pattern, and why.
    """

    def __init__(self, services: Mapping[str, tuple[str, ...]]) -> None:
        self.services = services
        self.looked_at = 0
        self.malformed: dict[str, str] = {}
        self._known: dict[str, Pattern] = {}
        self._shelves: dict[str, dict[str, _Shelf]] = {}
        for text in services:
            try:
                head, tail, row = self._row(text)
            except Malformed as error:
                self.malformed[text] = str(error)
                continue
            by_tail = self._shelves.setdefault(head, {})
            shelf = by_tail.get(tail)
            if shelf is None:
                shelf = by_tail[tail] = _Shelf()
            shelf.add(row)

    def _row(self, text: str) -> tuple[str, str, _Row]:
        """Return what a pattern begins and ends with, and its row. Raises Malformed."""
        if _SPECIAL.search(text) is None:
            return text, "", _Row(text, len(text), (), True)
        if _UNUSUAL.search(text) is None:
            head, *inner, tail = text.split(ANY)
            return head, tail, _Row(text, len(text) - len(inner) - 1, tuple(filter(None, inner)), True)
        parts = self[text].parts
        texts = [part.text if isinstance(part, Literal) else "" for part in parts]
        least = sum(len(part.text) if isinstance(part, Literal) else part != ANY for part in parts)
        tail = texts[-1] if len(texts) > 1 else ""
        return texts[0], tail, _Row(text, least, tuple(filter(None, texts[1:-1])), False)

    def __getitem__(self, text: str) -> Pattern:
        """Return one of the patterns that are well formed."""
        found = self._known.get(text)
        if found is None:
            found = self._known[text] = Pattern.of(text)
        return found

    def well_formed(self) -> Iterator[Pattern]:
        """Yield all patterns that are well formed."""
        return (self[text] for text in self.services if text not in self.malformed)

    def matching(self, host: str) -> list[Pattern]:
        """Return the patterns that match a host, in no order."""
        found = []
        for begin in range(len(host) + 1):
            by_tail = self._shelves.get(host[:begin])
            if by_tail is None:
                continue
            # As in a shelf.
            if len(by_tail) <= len(host) - begin:
                tails = [tail for tail in by_tail if host.endswith(tail)]
            else:
                tails = [host[end:] for end in range(begin, len(host) + 1) if host[end:] in by_tail]
            for tail in tails:
                rows = by_tail[tail].rows(host)
                self.looked_at += len(rows)
                for row in rows:
                    if row.may_match(host, begin, len(host) - len(tail)):
                        pattern = self[row.text]
                        exact = row.stars and (pattern.wildcards or begin == len(host))
                        if exact or (not row.stars and pattern.matches(host)):
                            found.append(pattern)
        return found

    def resolve(self, host: str, *, compat: bool = False) -> Resolution:
        """Return what a host is mapped to. compat: the longest pattern wins. Raises UsageError."""
        ranked = sorted(self.matching(checked_host(host)), key=lambda pattern: pattern.rank(compat=compat))
        best = ranked[0] if ranked else None
        return Resolution(
            host=host,
            winner=best.text if best else None,
            services=self.services[best.text] if best else (),
            losers=tuple(
                Loser(lost.text, self.services[lost.text], why(best, lost, compat=compat))
                for lost in ranked[1:]
                if best
            ),
            skipped=tuple(sorted(row for row in self.malformed.items() if _may_match(row[0], host))),
        )


def resolve(services: Mapping[str, tuple[str, ...]], host: str, *, compat: bool = False) -> Resolution:
    """Return what one host is mapped to; for many hosts make `Patterns` once. Raises UsageError."""
    begins = {checked_host(host)[0], "*", "?", "[", "\\"}
    likely = {
        text: names for text, names in services.items() if text[:1] in begins and _may_match(text, host)
    }
    return Patterns(likely).resolve(host, compat=compat)


def _may_match(text: str, host: str) -> bool:
    """Tell whether a pattern may match a host, as far as can be seen at a glance."""
    stars = text
    if _UNUSUAL.search(text) is not None:
        stars = _CLASS.sub(ANY, text).replace(ONE, ANY)
        if "[" in stars or "\\" in stars:
            return host.startswith(_SPECIAL.split(text, 1)[0])
    head, *inner, tail = stars.split(ANY) if ANY in stars else (stars, stars)
    return host.startswith(head) and host.endswith(tail) and all(part in host for part in inner)
