"""Debian's security tracker, as one JSON file: {source: {CVE: {description, releases: {codename: {...}}}}}.

Of each release: `status` (open, resolved, undetermined), `fixed_version` ("0": never affected),
`urgency`, and with `nodsa` a sentence why no advisory is written: `nodsa_reason` says whether the problem
is ignored, postponed, or left to a point release. Versions are those of source packages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from buildstep.trust.vulnerabilities import severity
from buildstep.trust.vulnerabilities.feeds.interface import Reading, Row, expanded
from buildstep.trust.vulnerabilities.feeds.json_stream import members_of_members
from buildstep.trust.vulnerabilities.model import Advisory, Events, Level, State
from buildstep.trust.vulnerabilities.scopes import of_release

_URL = "https://security-tracker.debian.org/tracker"
_SUMMARY = 300
_UNSTABLE = "sid"


class _Tracker:
    def fits(self, head: bytes, name: str) -> bool:
        """{"source": {"CVE-...": {: an object of objects of objects, and not one record of OSV."""
        return (
            re.match(rb'\s*\{\s*"[^"\\]{1,200}"\s*:\s*\{\s*("[^"\\]{1,200}"\s*:\s*\{|\})', head) is not None
        )

    def read(self, path: Path) -> Reading:
        reading = Reading(name="debian-tracker", rows=iter(()))
        reading.updated, reading.dated = path.stat().st_mtime, "the file's time"
        reading.rows = _rows(path, reading)
        return reading


FORM = _Tracker()


def _rows(path: Path, reading: Reading) -> Iterator[Row]:
    with expanded(path) as stream:
        for source, problem, value in members_of_members(stream, str(path)):
            releases = value.get("releases") if isinstance(value, Mapping) else None
            if not isinstance(releases, Mapping):
                reading.skip("problems without releases")
                continue
            for release, told in releases.items():
                if not isinstance(told, Mapping):
                    reading.skip("releases of another form")
                elif advisory := _advisory(problem, value, release, told):
                    yield Row(of_release(release), source, advisory)


def _advisory(
    problem: str, value: Mapping[str, Any], release: str, told: Mapping[str, Any]
) -> Advisory | None:
    """Return what is said of a problem in a release; None where it was never there."""
    status, fixed = told.get("status"), _text(told.get("fixed_version"))
    if status == "resolved" and fixed == "0":
        return None
    level, source = _severity(told)
    events: Events = (("introduced", "0"),)
    if status == "resolved" and fixed:
        events = (*events, ("fixed", fixed))
    else:
        # Somebody may have the version of sid, where it is mended, such as from backports.
        fixed, mended = "", _mended_in_sid(value, release)
        events = (*events, ("fixed", mended)) if mended else events
    return Advisory(
        id=problem,
        order="dpkg",
        summary=_text(value.get("description"))[:_SUMMARY],
        url=f"{_URL}/{problem}",
        severity=level,
        severity_source=source,
        state=_state(told, level, fixed=bool(fixed)),
        note=_text(told.get("nodsa"))[:_SUMMARY],
        fixed=fixed,
        ranges=(events,),
    )


def _mended_in_sid(value: Mapping[str, Any], release: str) -> str:
    told = value["releases"].get(_UNSTABLE)
    if release == _UNSTABLE or not isinstance(told, Mapping) or told.get("status") != "resolved":
        return ""
    version = _text(told.get("fixed_version"))
    return "" if version == "0" else version


def _state(told: Mapping[str, Any], level: Level, *, fixed: bool) -> State:
    if told.get("urgency") == "end-of-life":
        return "end-of-life"
    if told.get("urgency") == "unimportant" and level == "negligible":
        return "unimportant"
    if told.get("status") == "undetermined":
        return "undetermined"
    if fixed:
        return "fixed"
    if "nodsa" not in told:
        return "open"
    match told.get("nodsa_reason"):
        case "ignored":
            return "wont-fix"
        case "postponed":
            return "postponed"
        case _:
            return "minor"


def _severity(told: Mapping[str, Any]) -> tuple[Level, str]:
    """Return the severity, and who says so: Debian's urgency, or its security team, who leaves to a point
    release what is minor."""
    level = severity.by_word(told.get("urgency"))
    if level != "unknown":
        return level, "Debian's urgency"
    if "nodsa" in told:
        return "low", "Debian: no advisory of its own"
    return "unknown", ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
