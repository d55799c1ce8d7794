"""A plan as others read it: one JSON object, lines for a person, a graph for Graphviz."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from buildstep.components.plan import Plan, Planned, Verdict
from buildstep.system.text import plural


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as one JSON object.

    `levels`, `edges` (pairs, provider and consumer) and `nodes` are about the components that were chosen,
    `needed` about those that are in the plan only for them; `jobs` are in their order.
    """
    graph, names = plan.graph, plan.components()
    chosen = set(names)
    more = sorted({graph.jobs[job].component for job in plan.selection.needed} - chosen)
    rows = plan.by_component()
    return {
        "root": str(graph.repository.root),
        "levels": graph.levels(names),
        "edges": [list(edge) for edge in graph.edges if chosen.issuperset(edge)],
        "nodes": [_node(plan, name, rows.get(name, [])) for name in names],
        "needed": [_node(plan, name, rows.get(name, [])) for name in more],
        "jobs": [_job(plan, row) for row in plan.jobs.values()],
        "counts": {str(verdict): count for verdict, count in plan.counts().items()},
        "notes": [*plan.selection.notes, *graph.repository.notes, *graph.notes],
    }


def verdict_of(rows: Iterable[Planned]) -> Verdict:
    """Return the verdict of a component: that of the job that counts most."""
    found = {row.verdict for row in rows}
    order = (Verdict.RUN, Verdict.CHECK, Verdict.REUSE)
    return next((verdict for verdict in order if verdict in found), Verdict.REUSE)


def _node(plan: Plan, name: str, rows: Sequence[Planned]) -> dict[str, Any]:
    component = plan.graph.repository.components[name]
    return {
        "name": name,
        "images": [image.name for image in component.images],
        "jobs": [row.job for row in rows],
        "needs": plan.graph.providers.get(name, []),
        "verdict": str(verdict_of(rows)),
    }


def _job(plan: Plan, row: Planned) -> dict[str, Any]:
    job = plan.graph.jobs[row.job]
    return {
        "name": job.name,
        "component": job.component,
        "action": str(job.action),
        "needs": list(job.needs),
        "verdict": str(row.verdict),
        "reason": row.reason,
        "differs": list(row.differs),
        "key": row.key,
        "output": row.output,
        "seconds": row.seconds,
        "worker": row.worker,
        "base_images": list(plan.graph.external.get(job.name, ())),
    }


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield a plan for a person: a line for each job, in the order in which they can be done."""
    width = max((len(_label(plan, name)) for name in plan.jobs), default=0)
    for row in plan.jobs.values():
        note = f", built on {row.worker}" if row.worker not in ("", "local") else ""
        note += " (needed)" if row.job in plan.selection.needed else ""
        yield f"{row.verdict:<5}  {_label(plan, row.job):<{width}}  {row.reason}{note}"
    counts = plan.counts()
    parts = [f"{counts[Verdict.RUN]} to run", f"{counts[Verdict.REUSE]} reused"]
    if counts[Verdict.CHECK]:
        parts.insert(1, f"{counts[Verdict.CHECK]} to check")
    names = {*plan.components(), *plan.by_component()}
    yield f"{plural(len(plan.jobs), 'job')} of {plural(len(names), 'component')}: {', '.join(parts)}"


def _label(plan: Plan, name: str) -> str:
    job = plan.graph.jobs[name]
    plain = name in (job.component, f"{job.component}:{job.action}")
    return name if plain else f"{name} ({job.component})"


def plan_dot(plan: Plan) -> Iterator[str]:
    """Yield the components of a plan, and what they need of each other, in the DOT language of Graphviz."""
    colors = {Verdict.RUN: "#2f6fd0", Verdict.CHECK: "#b8860b", Verdict.REUSE: "#3d8b40"}
    names = plan.components()
    more = {plan.graph.jobs[job].component for job in plan.selection.needed} - set(names)
    shown, rows = {*names, *more}, plan.by_component()
    yield "digraph components {"
    yield "  rankdir=LR;"
    yield '  node [shape=box, style="rounded", fontname="sans-serif"];'
    for name in sorted(shown):
        verdict = verdict_of(rows.get(name, []))
        style = ', style="rounded,dashed"' if name in more else ""
        yield f'  {_quoted(name)} [color="{colors[verdict]}", tooltip="{verdict}"{style}];'
    for provider, consumer in plan.graph.edges:
        if provider in shown and consumer in shown:
            yield f"  {_quoted(provider)} -> {_quoted(consumer)};"
    yield "}"


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
