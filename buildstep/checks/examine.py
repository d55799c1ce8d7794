"""Hold an image to the rules: findings that are allowed are dropped, and the others told."""

from __future__ import annotations

import fnmatch
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from buildstep.checks.interface import Found, Rule, Subject
from buildstep.events import Bus, Checked
from buildstep.spec.check_rules import Severity
from buildstep.system.text import plural, shown

_TOLD = 50
"""Findings of one rule that are told."""

_NOTED = 5
"""Findings in files of packages that a note names."""


def examine(
    rules: Iterable[tuple[Rule, Severity]], subject: Subject, allow: Mapping[str, Sequence[str]], bus: Bus
) -> list[Checked]:
    """Apply rules, each with what a finding leads to; tell how each ended, and return those that failed."""
    failed = []
    for rule, severity in rules:
        event = _applied(rule, severity, subject, allowed(allow.get(rule.name, ())), bus)
        bus.emit(event)
        if event.result == "failed":
            failed.append(event)
    return failed


def _applied(
    rule: Rule, severity: Severity, subject: Subject, allows: Callable[[bytes], bool], bus: Bus
) -> Checked:
    begin = time.monotonic()
    own: list[Found] = []
    of_packages: list[Found] = []
    for found in rule.load()(subject):
        if not allows(found.path):
            (own if not found.path or subject.own(found.path) else of_packages).append(found)
    if of_packages and rule.of_packages:
        bus.note(f"{rule.name}, in files of packages: {_some(of_packages, _NOTED)}")
    seconds = time.monotonic() - begin
    if not own:
        return Checked(check=rule.name, group="rule", result="passed", seconds=seconds)
    own.sort(key=lambda found: not found.grave)  # what counts most first
    fails = severity == "fail" and own[0].grave
    return Checked(
        check=rule.name,
        group="rule",
        result="failed" if fails else "warned",
        seconds=seconds,
        message=_some(own, 1) if own[0].path else own[0].text,
        lines=tuple(line(found) for found in own[:_TOLD]) + _more(own, _TOLD),
    )


def line(found: Found) -> str:
    """Return a finding as people read it."""
    return f"/{shown(found.path)} {found.text}" if found.path else found.text


def _some(found: Sequence[Found], most: int) -> str:
    more = f" (and {len(found) - most} more)" if len(found) > most else ""
    return "; ".join(line(row) for row in found[:most]) + more


def _more(found: Sequence[Found], most: int) -> tuple[str, ...]:
    return (f"and {plural(len(found) - most, 'more finding')}",) if len(found) > most else ()


def allowed(globs: Iterable[str]) -> Callable[[bytes], bool]:
    """Return whether one of these globs fits a path: `*` fits slashes too, and a directory all below it."""
    plain = [glob.strip("/") for glob in globs]
    pairs = [(glob, glob.removesuffix("/**") + "/") for glob in plain]

    def fits(path: bytes) -> bool:
        name = os.fsdecode(path)
        return any(fnmatch.fnmatchcase(name, glob) or name.startswith(below) for glob, below in pairs)

    return fits
