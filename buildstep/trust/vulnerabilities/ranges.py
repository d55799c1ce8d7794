"""Whether a version is affected: ranges of OSV, and patterns of pkgsrc."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterator
from itertools import islice, pairwise

from buildstep.trust.vulnerabilities.model import Advisory, Events
from buildstep.trust.vulnerabilities.orders import compare

_MOST_ALTERNATIVES = 1000
_LONGEST_PATTERN = 1024


def affects(advisory: Advisory, name: str, version: str) -> bool:
    """Tell whether an advisory is about this version of a package. Raises ValueError where that has no place
    in the order of its versions, so that nobody can tell."""
    if version in advisory.unaffected:
        return False
    if version in advisory.versions:
        return True
    if advisory.pattern:
        return fits(advisory.pattern, name, version)
    return any(_within(events, version, advisory.order) for events in advisory.ranges)


def _within(events: Events, version: str, order: str) -> bool:
    """Tell whether a version is in a range, as "Evaluation" in the OSV schema has it: the last event at or
    before it decides."""
    limits = [value for what, value in events if what == "limit"]
    if limits and all(value != "*" and compare(order, version, value) >= 0 for value in limits):
        return False

    def by_version(left: tuple[str, str], right: tuple[str, str]) -> int:
        if left[1] == "0" or right[1] == "0":  # before all versions
            return (left[1] != "0") - (right[1] != "0")
        return compare(order, left[1], right[1])

    affected = False
    for what, value in sorted((e for e in events if e[0] != "limit"), key=functools.cmp_to_key(by_version)):
        beyond = 1 if value == "0" else compare(order, version, value)
        if what == "introduced" and beyond >= 0:
            affected = True
        elif (what == "fixed" and beyond >= 0) or (what == "last_affected" and beyond > 0):
            affected = False
    return affected


# -- patterns of pkgsrc (pkg_info(1), "package wildcards") ------------------------------------------------


def alternatives(pattern: str) -> list[str]:
    """Return what a pattern with braces stands for. Raises ValueError where they do not match, or for too
    many."""
    if len(pattern) > _LONGEST_PATTERN:
        raise ValueError("the pattern is too long")
    found = list(islice(_expanded(pattern), _MOST_ALTERNATIVES + 1))
    if len(found) > _MOST_ALTERNATIVES:
        raise ValueError("the pattern has too many alternatives")
    return found


def _expanded(pattern: str) -> Iterator[str]:
    begin = pattern.find("{")
    if begin < 0:
        yield pattern
        return
    depth, cuts = 0, [begin]
    for at in range(begin, len(pattern)):
        match pattern[at]:
            case "{":
                depth += 1
            case "}":
                depth -= 1
                if not depth:
                    cuts.append(at)
                    break
            case "," if depth == 1:
                cuts.append(at)
    if depth or len(cuts) < 2:
        raise ValueError(f"braces do not match in {pattern[:80]!r}")
    for left, right in pairwise(cuts):
        yield from _expanded(pattern[:begin] + pattern[left + 1 : right] + pattern[cuts[-1] + 1 :])


def fits(pattern: str, name: str, version: str) -> bool:
    """Tell whether a pattern without braces names this version of a package: by its limits, as a glob, or as
    it is."""
    cut = re.search("[<>]", pattern)
    if cut is None:
        whole = f"{name}-{version}"
        if not re.search(r"[*?\[\]]", pattern):
            return whole == pattern
        return fnmatch.fnmatchcase(whole, pattern)
    return pattern[: cut.start()] == name and _in_limits(pattern[cut.start() :], version)


_TESTS = ("<=", "<", ">=", ">")


def _in_limits(text: str, version: str) -> bool:
    """Tell whether a version keeps one limit, or a lower and an upper one: `>=1.2<1.4`."""
    low, upper = text, ""
    if text[0] == ">" and "<" in text:
        low, _, rest = text.partition("<")
        upper = f"<{rest}"
    return _keeps(low, version) and (not upper or _keeps(upper, version))


def _keeps(limit: str, version: str) -> bool:
    test = next(test for test in _TESTS if limit.startswith(test))
    order = compare("pkgsrc", version, limit[len(test) :])
    return {"<=": order <= 0, "<": order < 0, ">=": order >= 0, ">": order > 0}[test]
