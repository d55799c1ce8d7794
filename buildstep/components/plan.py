"""Plan a graph: what runs, what is reused, and why. Nothing is changed, and nothing but files is read.

A job runs if what goes into it is not what went into a build whose result is still there. While something
that it needs has yet to run, that is not known: such a job is checked when that is done, and runs if the
result is another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from buildstep.components.graph import Graph
from buildstep.components.inputs import NEED, Inputs, differences, elsewhere, key_of, summary, why_reused
from buildstep.components.interface import Built, History
from buildstep.errors import UsageError
from buildstep.spec import schema


class NoHistory:
    """A history of nothing: everything runs."""

    def find(self, job: str, key: str) -> Built | None:
        del job, key
        return None

    def last(self, job: str) -> Built | None:
        del job
        return None


class Verdict(StrEnum):
    """What is planned for a job."""

    RUN = "run"
    REUSE = "reuse"
    CHECK = "check"
    """It runs if something that it needs, and that runs, gives another result than last time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A job in a plan. reason: for a person. key, output: empty where they are not known before its needs
    are done. seconds: what it took last time, 0 if it never ran. differs: from its last build, all of it.
    worker: who built what is reused."""

    job: str
    verdict: Verdict
    reason: str
    key: str = ""
    output: str = ""
    seconds: float = 0.0
    differs: tuple[str, ...] = ()
    worker: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which jobs a plan is about: `chosen`, and `needed` by them besides. notes: how that came about."""

    chosen: frozenset[str]
    needed: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The jobs in the order in which they can be done."""

    graph: Graph
    selection: Selection
    jobs: Mapping[str, Planned]

    def counts(self) -> dict[Verdict, int]:
        """Return how many jobs have each verdict."""
        found = Counter(row.verdict for row in self.jobs.values())
        return {verdict: found[verdict] for verdict in Verdict}

    def components(self) -> list[str]:
        """Return the components that were chosen, sorted; those without jobs only where all are."""
        jobs = self.graph.jobs
        if self.selection.chosen == jobs.keys():
            return list(self.graph.repository.components)
        return sorted({jobs[name].component for name in self.selection.chosen})

    def by_component(self) -> dict[str, list[Planned]]:
        """Return the jobs of each component that has some in the plan, in their order."""
        found: dict[str, list[Planned]] = {}
        for row in self.jobs.values():
            found.setdefault(self.graph.jobs[row.job].component, []).append(row)
        return found


def select(
    graph: Graph,
    names: Iterable[str] = (),
    *,
    affected: Collection[str] | None = None,
    notes: Iterable[str] = (),
) -> Selection:
    """Return what a plan is about.

    names: components, or single images, with all that they need; none are all. affected: jobs that a change
    affects; of the rest only what they need is in the plan. notes: are handed on. Raises UsageError for
    unknown names, all of them.
    """
    components, wanted, unknown = graph.repository.components, set[str](), []
    for name in names:
        if name in components:
            wanted |= graph.of_components([name])
        elif name in graph.jobs:
            wanted.add(name)
        elif several := [job for job in graph.jobs if job.partition("@")[0] == name]:
            wanted.update(several)
        else:
            unknown.append(name)
    if unknown:
        known = {*components, *graph.jobs}
        hints = [
            schema.near(name, known) or f"{name} is no component of {graph.repository.root}"
            for name in unknown
        ]
        raise UsageError(f"no component or image {', '.join(unknown)}", hint="; ".join(hints))
    chosen = set(graph.jobs)
    if wanted:
        chosen = wanted | graph.upstream(wanted)
    needed: set[str] = set()
    if affected is not None:
        chosen &= set(affected)
        needed = graph.upstream(chosen) - chosen
    return Selection(chosen=frozenset(chosen), needed=frozenset(needed), notes=tuple(notes))


def make_plan(
    graph: Graph, selection: Selection, inputs: Inputs, history: History, *, again: bool = False
) -> Plan:
    """Return the plan for a selection. again: run what was chosen even if its result is known.

    Raises GraphError for a cycle, and for a file that cannot be read.
    """
    outputs: dict[str, str] = {}
    rows: dict[str, Planned] = {}
    for name in graph.order(selection.chosen | selection.needed):
        forced = again and name in selection.chosen
        row = _planned(graph, name, inputs, history, outputs, forced=forced)
        rows[name] = row
        if row.output:
            outputs[name] = row.output
    return Plan(graph=graph, selection=selection, jobs=rows)


def _planned(
    graph: Graph, name: str, inputs: Inputs, history: History, outputs: Mapping[str, str], *, forced: bool
) -> Planned:
    last = history.last(name)
    seconds = last.seconds if last else 0.0
    waits = [need for need in graph.jobs[name].needs if need not in outputs]
    if waits:
        own = inputs.own(name)
        before = {key: value for key, value in last.inputs.items() if not _is_need(key)} if last else {}
        differs = tuple(differences(before, own)) if last else ()
        if last and not differs and not forced and _same_needs(graph, name, last, outputs):
            reason = f"only if the result changes of {summary(waits)}"
            return Planned(job=name, verdict=Verdict.CHECK, reason=reason, seconds=seconds)
        # What is not known yet is no reason; what is known to differ is one.
        reason = "asked for" if forced else _reason(last, differs)
        return Planned(job=name, verdict=Verdict.RUN, reason=reason, seconds=seconds, differs=differs)
    everything = inputs.all(name, outputs)
    key = key_of(everything)
    differs = tuple(differences(last.inputs, everything)) if last and last.key != key else ()
    if not forced and (found := history.find(name, key)):
        return Planned(
            job=name,
            verdict=Verdict.REUSE,
            reason=why_reused(last, key),
            key=key,
            output=found.output,
            seconds=found.seconds,
            worker=found.worker,
        )
    reason = "asked for" if forced else _reason(last, differs)
    return Planned(job=name, verdict=Verdict.RUN, reason=reason, key=key, seconds=seconds, differs=differs)


def _is_need(name: str) -> bool:
    return name.partition(":")[0] == NEED


def _same_needs(graph: Graph, name: str, last: Built, outputs: Mapping[str, str]) -> bool:
    """Return whether a job needs the same jobs as last time, and the reused ones of them are the same."""
    before = {key.partition(":")[2]: value for key, value in last.inputs.items() if _is_need(key)}
    needs = graph.jobs[name].needs
    return set(needs) == before.keys() and all(
        outputs.get(need, before[need]) == before[need] for need in needs
    )


def _reason(last: Built | None, differs: Collection[str]) -> str:
    if last is None:
        return "not built before"
    return (
        summary(list(differs)) or elsewhere(last) or "its last result is gone, or something it needs changed"
    )
