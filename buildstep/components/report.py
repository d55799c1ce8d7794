"""The result of a build of components as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from buildstep.components.flow import Outcome
from buildstep.components.interface import Result, State

FORMAT: Final = 1


def to_json(outcome: Outcome) -> dict[str, Any]:
    """Return the object that `components build --json` prints."""
    return {
        "format": FORMAT,
        "ok": all(result.state in (State.BUILT, State.REUSED) for result in outcome.results.values()),
        "started": datetime.fromtimestamp(outcome.started, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": round(outcome.seconds, 3),
        "jobs": [_row(outcome, result) for result in outcome.results.values()],
    }


def _row(outcome: Outcome, result: Result) -> dict[str, Any]:
    job = outcome.jobs[result.job]
    return {
        "job": result.job,
        "component": job.component,
        "action": str(job.action),
        "state": str(result.state),
        "output": result.output,
        "why": result.why,
        "message": result.message,
        "log": str(result.log) if result.log else "",
        "worker": result.worker,
        "started": round(result.started, 3),
        "seconds": round(result.seconds, 3),
    }
