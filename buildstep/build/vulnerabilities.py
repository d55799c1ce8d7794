"""Known vulnerabilities of what a build has made, looked up in databases that are here before anything ships.

Nothing of it uses the network. An image that stands is looked up again where the databases or the exceptions
are others than they were, or an exception has ended since.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildstep.errors import VulnerableError
from buildstep.events import Bus
from buildstep.spec.load import BuildSpec
from buildstep.spec.trust import Vulnerabilities
from buildstep.system.text import plural

if TYPE_CHECKING:
    from buildstep.trust.inventory.model import Inventory
    from buildstep.trust.statements.statement import Statement, Subject
    from buildstep.trust.vulnerabilities.gate import Asked
    from buildstep.trust.vulnerabilities.model import Feed, Gate, Result


def ready(spec: BuildSpec) -> list[Feed]:
    """Make sure before the work that there is a database which is not too old, and that the exceptions can be
    read; return the databases. Raises NoDatabaseError, SpecError, UsageError."""
    given = spec.proof.vulnerabilities
    if given is None:
        return []
    from buildstep.trust.vulnerabilities import directory, match

    asked = _asked(given)
    if feeds := directory.ready(asked.folder):  # which of them count is only known with the image
        newest = max(feeds, key=lambda feed: feed.updated)
        match.demand_fresh([newest], asked.gate, time.time())
    return feeds


def looked_up(spec: BuildSpec, inventory: Inventory, bus: Bus) -> Result | None:
    """Return what is known of an image; None where it is not asked for.

    Raises VulnerableError for what the gate does not let pass, NoDatabaseError where nothing is known.
    """
    given = spec.proof.vulnerabilities
    if given is None:
        return None
    from buildstep.trust.vulnerabilities import gate, render

    asked = _asked(given)
    result = gate.scan(inventory, asked, now=time.time())
    for text in render.notes(result):
        bus.note(f"vulnerabilities: {text}", level="warning")
    try:
        gate.demand(result, asked.gate)
    except VulnerableError as error:
        error.found = told(spec, result)
        raise
    return result


def statement(spec: BuildSpec, result: Result, subjects: Sequence[Subject]) -> Statement:
    """Return what is known as a statement about an image. Its time is SOURCE_DATE_EPOCH, if that is set."""
    from buildstep.trust.vulnerabilities import predicate

    assert spec.proof.vulnerabilities is not None
    said = predicate.predicate(result, _gate(spec.proof.vulnerabilities), at=spec.source_date_epoch)
    from buildstep.trust.statements import STATEMENTS
    from buildstep.trust.statements.statement import Statement

    return Statement(tuple(subjects), STATEMENTS["vulnerabilities"].predicate_types[0], said)


def told(spec: BuildSpec, result: Result | None) -> dict[str, Any]:
    """Return what the build record says of it."""
    given = spec.proof.vulnerabilities
    if result is None or given is None:
        return {}
    from buildstep.trust.vulnerabilities import gate

    limits = _gate(given)
    rows = [gate.told(found, limits).row() for found in result.found]
    feeds = [{"name": feed.name, "sha256": feed.digest, "updated": feed.updated} for feed in result.feeds]
    known = {"fail": limits.fail, "found": rows, "databases": feeds, "uncovered": dict(result.uncovered)}
    return {"vulnerabilities": known}


def text(spec: BuildSpec, result: Result | None) -> str:
    """Return what was found, for the line of the step; empty where nothing was looked up."""
    given = spec.proof.vulnerabilities
    if result is None or given is None:
        return ""
    names = ", ".join(feed.name for feed in result.feeds)
    found = f"{len(result.found):,} known vulnerabilities" if result.found else "no known vulnerability"
    counted = ", none that counts" if given.fail and result.found else ""
    return f"{found} of {plural(result.matters, 'package')}{counted} ({names})"


def fingerprint(spec: BuildSpec, *, now: float | None = None) -> list[Any]:
    """Return what the answer depends on besides the image: databases, exceptions, and which have ended."""
    given = spec.proof.vulnerabilities
    if given is None:
        return []
    from buildstep.trust.vulnerabilities import gate

    at = time.time() if now is None else now
    return gate.fingerprint(Path(given.db), _gate(given), _files(given.exceptions), _files(given.vex), now=at)


def _asked(given: Vulnerabilities) -> Asked:
    from buildstep.trust.vulnerabilities import gate

    more = {"exception_files": _files(given.exceptions), "vex_files": _files(given.vex)}
    return gate.asked(Path(given.db), _gate(given), **more)


def _files(path: str | None) -> list[Path]:
    return [Path(path)] if path else []


def _gate(given: Vulnerabilities) -> Gate:
    from buildstep.trust.vulnerabilities.gate import days
    from buildstep.trust.vulnerabilities.model import Gate

    return Gate(
        fail=given.fail or "",
        fixed_only=given.fixed_only,
        unknown=not given.ignore_unknown,
        eol=given.eol,
        complete=given.complete,
        max_age=days(given.max_age) if given.max_age else None,
    )
