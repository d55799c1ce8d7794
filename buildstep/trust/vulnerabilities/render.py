"""A result as text for a person, as JSON, and as SARIF for code scanning."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from buildstep import __version__
from buildstep.report.vulnerabilities import sarif_result, sarif_rules, shown
from buildstep.system.text import plural, printable
from buildstep.trust.vulnerabilities.gate import told
from buildstep.trust.vulnerabilities.match import DAY
from buildstep.trust.vulnerabilities.model import Feed, Found, Gate, Result

_OLD = 7
"""Days after which a database is told to be old."""

_ROW = ("SEVERITY", "PACKAGE", "INSTALLED", "REPAIRED IN", "VULNERABILITY", "STATE")


def as_text(result: Result, gate: Gate, *, everything: bool = False) -> str:
    """Return the findings as a table: those that count, what was excepted, and with `everything` the
    others."""
    listed = [found for found in result.found if everything or gate.counts(found) or found.ruling]
    rows = [_ROW, *(_cells(found, gate) for found in listed)] if listed else []
    widths = [max(len(row[at]) for row in rows) for at in range(len(_ROW))] if rows else []
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "".join(
        f"{printable(line)}\n" for line in (*lines, *([""] if lines else []), *_summary(result, gate))
    )


def _cells(found: Found, gate: Gate) -> tuple[str, ...]:
    advisory = found.advisory
    state: str = advisory.state
    if found.ruling:
        end = f" until {found.until}" if found.until else ""
        state = f"{found.ruling}{end}: {found.reason}"
    elif found.expired:
        state += f" (exception ended on {found.expired})"
    elif not gate.counts(found):
        state += " (does not count)"
    return (
        advisory.severity, found.matter.name, found.matter.version, advisory.fixed or "-", found.id, state,
    )  # fmt: skip


def _summary(result: Result, gate: Gate) -> Iterator[str]:
    counted = result.counted(gate)
    levels = Counter(found.advisory.severity for found in counted)
    told = ", ".join(f"{count} {level}" for level, count in levels.items())
    title = f"{result.name} {result.version}".strip()
    ends = f": {told}" if told else ""
    noun = "vulnerability" if len(counted) == 1 else "vulnerabilities"
    yield f"{title}: {len(counted):,} {noun} that count{'s' if len(counted) == 1 else ''}{ends}"
    others = Counter(_why_not(found, gate) for found in result.found if not gate.counts(found))
    if others:
        yield f"not counted: {', '.join(f'{count} {why}' for why, count in sorted(others.items()))}"
    for feed in result.feeds:
        yield f"database: {feed.name} of {_day(feed.updated)} ({_age(feed, result.started)}; {feed.dated})"
    yield f"looked up: {plural(result.matters, 'package')}"


def _why_not(found: Found, gate: Gate) -> str:
    """Return in a word why a finding does not count."""
    if found.ruling:
        return "excepted" if found.ruling == "exception" else found.ruling.replace("_", " ")
    state = found.advisory.state
    if state in ("wont-fix", "end-of-life", "undetermined", "unimportant"):
        return state
    if gate.fixed_only and state != "fixed":
        return "without a repair"
    return f"of {found.advisory.severity} severity"


def notes(result: Result) -> Iterator[str]:
    """Yield what a person has to know besides: old databases, packages without one, exceptions that nothing
    needs."""
    yield from map(printable, _notes(result))


def _notes(result: Result) -> Iterator[str]:
    for feed in result.feeds:
        if result.started - feed.updated > _OLD * DAY:
            yield f"the database {feed.name} is {_age(feed, result.started)}: newer problems are not in it"
        elif feed.updated - result.started > DAY:
            yield f"the database {feed.name} has a date that is still to come ({feed.dated})"
    yield from result.notes
    for text in result.unused:
        yield f"the exception for {text} is about nothing that is there"


def _age(feed: Feed, now: float) -> str:
    return f"{plural(max(0, int((now - feed.updated) / DAY)), 'day')} old"


def as_json(result: Result, gate: Gate, *, everything: bool = True) -> str:
    """Return all that was found as one JSON object."""
    del everything
    counted = result.counted(gate)
    value = {
        "name": result.name,
        "version": result.version,
        "digests": dict(result.digests),
        "ok": not counted,
        "gate": {
            "fail": gate.fail or None, "fixed_only": gate.fixed_only, "unknown": gate.unknown,
            "eol": gate.eol,
        },
        "counted": len(counted),
        "findings": [_finding(found, gate) for found in result.found],
        "databases": [
            feed_row(feed, result.started)
            for feed in result.feeds
        ],
        "packages": result.matters,
        "uncovered": dict(result.uncovered),
        "unused_exceptions": list(result.unused),
        "notes": list(notes(result)),
    }  # fmt: skip
    return json.dumps(value, indent=2) + "\n"


def feed_row(feed: Feed, now: float) -> dict[str, Any]:
    """Return what there is to know of a feed, as JSON."""
    return {
        "name": feed.name, "file": feed.file, "sha256": feed.digest, "updated": _time(feed.updated),
        "dated": feed.dated, "age_days": round((now - feed.updated) / DAY, 1), "rows": feed.rows,
    }  # fmt: skip


def _finding(found: Found, gate: Gate) -> dict[str, Any]:
    advisory = found.advisory
    return {
        "id": found.id,
        "aliases": list(advisory.aliases),
        "package": found.matter.name,
        "kind": found.matter.kind,
        "packages": list(found.matter.packages),
        "purls": list(found.matter.refs),
        "installed": found.matter.version,
        "fixed": advisory.fixed or None,
        "severity": advisory.severity,
        "severity_source": advisory.severity_source,
        "score": advisory.score or None,
        "state": advisory.state,
        "note": advisory.note,
        "summary": advisory.summary,
        "url": advisory.url,
        "databases": list(found.feeds),
        "counts": gate.counts(found),
        "ruling": found.ruling or None,
        "reason": found.reason,
        "until": str(found.until) if found.until else None,
        "expired": str(found.expired) if found.expired else None,
    }


SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"


def as_sarif(result: Result, gate: Gate, *, everything: bool = False) -> str:
    """Return a SARIF 2.1.0 log: what counts, and what is excepted as suppressed."""
    rows = shown((told(found, gate) for found in result.found), everything=everything)
    rules = sarif_rules(rows)
    order = {ident: index for index, ident in enumerate(rules)}
    run = {
        "tool": {
            "driver": {
                "name": "buildstep", "version": __version__, "semanticVersion": __version__,
                "rules": list(rules.values()),
            }
        },
        "automationDetails": {"id": f"buildstep-scan/{result.name}/"},
        "results": [sarif_result(row, result.name, order[row.id]) for row in rows],
        "columnKind": "unicodeCodePoints",
        "properties": {"databases": [f"{feed.name} sha256:{feed.digest}" for feed in result.feeds]},
    }  # fmt: skip
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _day(seconds: float) -> str:
    return _time(seconds)[:10]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


FORMATS: Final[Mapping[str, Callable[..., str]]] = {"text": as_text, "json": as_json, "sarif": as_sarif}


def names() -> Sequence[str]:
    """Return the names of the formats."""
    return tuple(FORMATS)
