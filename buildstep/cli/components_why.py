"""`buildstep components why`: why a component or an image would run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.components_options import Work, with_work
from buildstep.cli.options import JSON, show

if TYPE_CHECKING:
    from buildstep.components.plan import Plan, Planned


@click.command("why")
@click.argument("name", shell_complete=values.COMPONENTS)
@with_work
@JSON
def command(work: Work, name: str, as_json: bool) -> None:
    """Show why a component or image NAME would run: what differs from its last build, what it needs and
    why, and what is made from it."""
    plan = work.plan([name])
    component = plan.graph.repository.components.get(name)
    wanted = plan.graph.of_components([name]) if component else {name}
    rows = [_row(work, plan, planned) for job, planned in plan.jobs.items() if job in wanted]
    show({"name": name, "jobs": rows}, _lines(rows), as_json=as_json)


def _row(work: Work, plan: Plan, planned: Planned) -> dict[str, Any]:
    graph, job = plan.graph, planned.job
    last = work.opened.records.last(job)
    return {
        "name": job,
        "verdict": str(planned.verdict),
        "reason": planned.reason,
        "differs": list(planned.differs),
        "last": last and {"output": last.output, "seconds": last.seconds, "ended": last.ended},
        "needs": [
            {"name": need, "verdict": str(plan.jobs[need].verdict), "why": graph.reasons[need, job]}
            for need in graph.jobs[job].needs
        ],
        "base_images": list(graph.external.get(job, ())),
        "needed_by": graph.consumers[job],
    }


def _lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield f"{row['name']}: {row['verdict']}, {row['reason']}"
        if len(row["differs"]) > 1:
            yield from (f"  {difference}" for difference in row["differs"])
        if last := row["last"]:
            when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(last["ended"]))
            yield f"  last built {when} in {last['seconds']:.1f} s: {last['output']}"
        for need in row["needs"]:
            yield f"  needs {need['name']} ({need['verdict']}): {need['why']}"
        for base in row["base_images"]:
            yield f"  base image from elsewhere: {base}"
        if row["needed_by"]:
            yield f"  needed by {', '.join(row['needed_by'])}"
