"""OSV records (schema 1.x) as a zip of an ecosystem holds them: a JSON document each.

A package is affected at `versions`, and in `ranges` of the types ECOSYSTEM and SEMVER; those of commits
(GIT) say nothing of packages. Records that were withdrawn are left out. `upstream` names what a
distribution's record is about, `aliases` the same problem elsewhere: both are names of one problem here.
"""

from __future__ import annotations

import errno
import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from buildstep.errors import UsageError
from buildstep.trust.vulnerabilities import severity
from buildstep.trust.vulnerabilities.feeds.interface import LARGEST, Reading, Row
from buildstep.trust.vulnerabilities.model import EVENTS, Advisory, Events, Level, State
from buildstep.trust.vulnerabilities.scopes import ECOSYSTEMS, normal_name, of_ecosystem

_LARGEST_RECORD = 64 << 20
_MOST_RECORDS = 5_000_000
_SUMMARY = 300
_BY_RANGES = frozenset({"debian", "ubuntu", "alpine"})
"""Whose ranges say all, while their lists of versions are long: each that there ever was."""


class _Osv:
    def fits(self, head: bytes, name: str) -> bool:
        return head[:4] == b"PK\x03\x04"

    def read(self, path: Path) -> Reading:
        return _Zip(path).reading


FORM = _Osv()


class _Zip:
    """A zip as it is read. common: the ecosystems that every record so far has."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._common: frozenset[str] | None = None
        self.reading = Reading(name="osv", rows=self._rows(), dated="the newest record", only=self._wanted)

    def _wanted(self, scope: str) -> bool:
        """Tell whether the zip is about a scope. That of an ecosystem also has what its records say of
        others, which is not all there is about these."""
        bases = {of_ecosystem(name).partition("/")[0] for name in self._common or ()}
        return not bases or scope.partition("/")[0] in bases

    def _rows(self) -> Iterator[Row]:
        for record in self._records():
            bases = frozenset(_base(affected) for affected in _affected(record)) & ECOSYSTEMS.keys()
            if bases:
                self._common = bases if self._common is None else self._common & bases
            self.reading.updated = max(self.reading.updated, _time(record.get("modified")))
            if not record.get("withdrawn"):
                yield from _of_record(record, self.reading)
        if self._common is None:
            raise UsageError(
                f"{self._path} has no record of OSV about packages that are understood here",
                hint=f"it is to be the all.zip of {', '.join(ECOSYSTEMS)}, or of all",
            )
        name = "-".join(sorted(self._common or ())) or "all"
        self.reading.name = f"osv-{name}"

    def _records(self) -> Iterator[Mapping[str, Any]]:
        total = 0
        try:
            with zipfile.ZipFile(self._path) as archive:
                members = archive.infolist()
                if len(members) > _MOST_RECORDS:
                    raise UsageError(f"{self._path} has {len(members):,} members, more than any real one")
                for member in members:
                    if not member.filename.endswith(".json"):
                        continue
                    total += member.file_size
                    if member.file_size > _LARGEST_RECORD or total > LARGEST:
                        raise UsageError(
                            f"{self._path}: {member.filename[:80]}, or all of it, is too large",
                        )
                    with archive.open(member) as stream:
                        value = json.loads(stream.read(_LARGEST_RECORD))
                    if not isinstance(value, Mapping) or not isinstance(value.get("id"), str):
                        raise UsageError(f"{self._path}: {member.filename[:80]} is no record of OSV")
                    yield value
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{self._path} holds what is no JSON: {error}") from error
        except (
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            struct.error,
            EOFError,
            RuntimeError,
        ) as error:
            raise UsageError(f"{self._path} is damaged: {error}", hint="download it anew") from error
        except OSError as error:
            # A place that no file has, and what bz2 says of bad data.
            if error.errno not in (None, errno.EINVAL):
                raise
            raise UsageError(f"{self._path} is damaged: {error}", hint="download it anew") from error


def _affected(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    rows = record.get("affected")
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, Mapping) and isinstance(row.get("package"), Mapping):
            yield row


def _base(affected: Mapping[str, Any]) -> str:
    return _text(affected["package"].get("ecosystem")).partition(":")[0]


def _of_record(record: Mapping[str, Any], reading: Reading) -> Iterator[Row]:
    """Yield what a record says, a row for each package."""
    for affected in _affected(record):
        ecosystem, name = _text(affected["package"].get("ecosystem")), _text(affected["package"].get("name"))
        scope = of_ecosystem(ecosystem)
        if not scope or not name:
            reading.skip(f"packages of {ecosystem or 'no ecosystem'}")
            continue
        ranges = tuple(_ranges(affected))
        versions = tuple(v for v in _list(affected.get("versions")) if isinstance(v, str))
        if ranges and scope.partition("/")[0] in _BY_RANGES:
            versions = ()
        if not ranges and not versions:
            continue
        fixed = any(what == "fixed" for events in ranges for what, _ in events)
        level, source, score = _severity(record, affected)
        yield Row(
            scope,
            normal_name(scope, name),
            Advisory(
                id=record["id"],
                order=ECOSYSTEMS[ecosystem.partition(":")[0]].order,
                aliases=tuple(dict.fromkeys(_names(record))),
                summary=(_text(record.get("summary")) or _text(record.get("details")))[:_SUMMARY],
                url=f"https://osv.dev/vulnerability/{record['id']}",
                severity=level,
                severity_source=source,
                score=score,
                state=_state(affected, fixed=fixed),
                ranges=ranges,
                versions=versions,
            ),
        )


def _names(record: Mapping[str, Any]) -> Iterator[str]:
    for key in ("aliases", "upstream"):
        for name in _list(record.get(key)):
            # GHSA records of one problem in several packages name one another `related`, which is no alias.
            if isinstance(name, str) and name:
                yield name


def _ranges(affected: Mapping[str, Any]) -> Iterator[Events]:
    for row in _list(affected.get("ranges")):
        if not isinstance(row, Mapping) or row.get("type") not in ("ECOSYSTEM", "SEMVER"):
            continue
        events = tuple(
            (what, value)
            for event in _list(row.get("events"))
            if isinstance(event, Mapping)
            for what, value in event.items()
            if what in EVENTS and isinstance(value, str)
        )
        if any(what == "introduced" for what, _ in events):
            yield events


def _state(affected: Mapping[str, Any], *, fixed: bool) -> State:
    specific = affected.get("ecosystem_specific")
    urgency = specific.get("urgency") if isinstance(specific, Mapping) else None
    if urgency == "unimportant":
        return "unimportant"
    if urgency == "end-of-life":
        return "end-of-life"
    return "fixed" if fixed else "open"


def _severity(record: Mapping[str, Any], affected: Mapping[str, Any]) -> tuple[Level, str, str]:
    """Return the severity, who says so, and the score: of the distribution, of CVSS, of the database."""
    specific = affected.get("ecosystem_specific")
    if isinstance(specific, Mapping):
        for key in ("urgency", "severity"):
            if (level := severity.by_word(specific.get(key))) != "unknown":
                return level, f"the {_base(affected)} {key}", ""
    scores = []
    for row in (*_list(affected.get("severity")), *_list(record.get("severity"))):
        if isinstance(row, Mapping) and (score := severity.score(row.get("score"))) is not None:
            scores.append((_text(row.get("type")), score))
    for kind in ("CVSS_V3", "CVSS_V2"):
        for name, score in scores:
            if name == kind:
                return severity.by_score(score), kind.replace("_V", " "), f"{score:.1f}"
    own = record.get("database_specific")
    if isinstance(own, Mapping) and (level := severity.by_word(own.get("severity"))) != "unknown":
        return level, record["id"].partition("-")[0], ""
    return "unknown", "", ""


def _time(text: object) -> float:
    """Return when a record was changed; 0 for no time."""
    try:
        found = datetime.fromisoformat(_text(text))
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
