"""The graph of jobs: what each needs, in which order they can be done, and what a change reaches.

A job is an image, or a hook of a component. `graphlib` orders them; ready jobs are taken by their names, so
that the order is the same on every machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from graphlib import CycleError
from typing import Literal

from buildstep.components.discover import SOURCE, Repository
from buildstep.components.interface import Action, Component, GraphError, Image, Job, ReadOptions, Reference
from buildstep.components.references import find_image
from buildstep.system.graphs import cycle_lines, levels, reached

Reach = Literal["none", "direct", "all"]
"""How far a change is followed to what is made from it."""


class Graph:
    """Jobs by name, sorted. reasons: why a job needs another, by (provider, consumer); component_reasons: the
    same between components; external: for each image the base images that are not built here; notes: what a
    person may have meant otherwise, a line each."""

    def __init__(self, repository: Repository, options: ReadOptions | None = None) -> None:
        self.repository = repository
        self.reasons: dict[tuple[str, str], str] = {}
        self.component_reasons: dict[tuple[str, str], str] = {}
        self.external: dict[str, tuple[str, ...]] = {}
        self.notes: list[str] = []
        self._connect(options or ReadOptions())

    def _connect(self, options: ReadOptions) -> None:
        components, images = self.repository.components, self.repository.images()
        jobs: dict[str, Job] = {}
        for component in components.values():
            for job in jobs_of(component):
                jobs[job.name] = job
            self._hooks(component)
        for component in components.values():
            for dependency in component.dependencies:
                provider = components[dependency.provider]
                self.component_reasons.setdefault((provider.name, component.name), dependency.where)
                # All of both: any job of the provider may make a product, and any job here may use it.
                for first in job_names(provider):
                    for then in job_names(component):
                        self.reasons.setdefault((first, then), dependency.where)
            for image in component.images:
                self._bases(image, images, options)
        needs: dict[str, set[str]] = {name: set() for name in jobs}
        for provider_job, consumer_job in self.reasons:
            needs[consumer_job].add(provider_job)
        self.jobs = {
            name: replace(jobs[name], needs=tuple(sorted(needs[name]))) if needs[name] else jobs[name]
            for name in sorted(jobs)
        }

    def _hooks(self, component: Component) -> None:
        """The hook before comes before the images of its component, and the one after comes after both."""
        jobs = {action: [job.name for job in jobs_of(component) if job.action is action] for action in Action}
        for before, after in itertools.combinations((Action.PRE, Action.IMAGE, Action.POST), 2):
            for pair in itertools.product(jobs[before], jobs[after]):
                self.reasons[pair] = f"a hook of {component.name}"

    def _bases(self, image: Image, images: Mapping[str, Image], options: ReadOptions) -> None:
        external = []
        where = f"{SOURCE}/{image.component}/{image.file}"
        for base in image.bases:
            name = find_image(base.text, images, options, image.platform)
            if name is None:
                self._no_platform(image, base, images, options)
                external.append(base.text)
                other = base.text.partition("@")[0].rpartition(":")[0]
                if other in images and other != image.name:
                    self.notes.append(
                        f"{_place(where, base)}: {base.how} {base.text} is not the {other} built here; "
                        "without the tag it is"
                    )
                continue
            reason = f"{_place(where, base)} {base.how} {base.text}"
            self.reasons.setdefault((name, image.name), reason)
            provider = images[name].component
            if provider != image.component:
                self.component_reasons.setdefault((provider, image.component), reason)
        self.external[image.name] = tuple(dict.fromkeys(external))

    def _no_platform(
        self, image: Image, base: Reference, images: Mapping[str, Image], options: ReadOptions
    ) -> None:
        """Note a base of the graph that is built for other platforms only."""
        others = [name for name in self._variants if find_image(base.text, [name], options)]
        if others:
            built = [other.platform for other in images.values() if other.name.partition("@")[0] in others]
            self.notes.append(
                f"{_place(f'{SOURCE}/{image.component}/{image.file}', base)}: {others[0]} is built here for "
                f"{', '.join(built)} only: {base.text} is taken from elsewhere"
            )

    @cached_property
    def _variants(self) -> list[str]:
        """The names of images for several platforms, without these."""
        found = (name.partition("@") for name in self.repository.images())
        return list(dict.fromkeys(name for name, at, _ in found if at))

    @cached_property
    def consumers(self) -> dict[str, list[str]]:
        """The jobs that need each job."""
        found: dict[str, list[str]] = {name: [] for name in self.jobs}
        for job in self.jobs.values():
            for need in job.needs:
                found[need].append(job.name)
        return found

    @cached_property
    def edges(self) -> list[tuple[str, str]]:
        """Pairs of components, provider and consumer, sorted; each once."""
        return sorted(self.component_reasons)

    @cached_property
    def providers(self) -> dict[str, list[str]]:
        """The components that each component needs, sorted; none for those that need nothing."""
        found: dict[str, list[str]] = {}
        for provider, consumer in self.edges:
            found.setdefault(consumer, []).append(provider)
        return found

    def of_components(self, names: Collection[str]) -> set[str]:
        """Return the names of all jobs of these components."""
        return {name for part in names for name in job_names(self.repository.components[part])}

    def order(self, names: Collection[str] | None = None) -> list[str]:
        """Return jobs, all of them or those named, so that each comes after what it needs of them.

        Raises GraphError for a cycle among them, with every member of it, and why each needs the next.
        """
        chosen = self.jobs.keys() if names is None else set(names)
        needs = {name: set(self.jobs[name].needs) & chosen for name in sorted(chosen)}
        try:
            return [name for level in levels(needs) for name in level]
        except CycleError:
            raise self._cycles(needs) from None

    def levels(self, names: Collection[str] | None = None) -> list[list[str]]:
        """Return components, all of them or those named, in levels: each needs only ones of earlier levels.

        Where components need each other's images, and no image needs itself, the level of a component is that
        of its last image.
        """
        chosen = self.repository.components.keys() if names is None else set(names)
        needs: dict[str, set[str]] = {name: set() for name in sorted(chosen)}
        for provider, consumer in self.edges:
            if provider in chosen and consumer in chosen:
                needs[consumer].add(provider)
        try:
            return levels(needs)
        except CycleError:
            return self._levels_by_job(needs)

    def _levels_by_job(self, components: Iterable[str]) -> list[list[str]]:
        depth: dict[str, int] = {}
        deepest = dict.fromkeys(components, 0)
        for name in self.order(self.of_components(deepest)):
            here = self.jobs[name].component
            depth[name] = max(
                (
                    depth[need] + (self.jobs[need].component != here)
                    for need in self.jobs[name].needs
                    if need in depth
                ),
                default=0,
            )
            deepest[here] = max(deepest[here], depth[name])
        return [
            sorted(name for name, level in deepest.items() if level == wanted)
            for wanted in sorted(set(deepest.values()))
        ]

    def upstream(self, names: Iterable[str]) -> set[str]:
        """Return all jobs that these jobs need, near and far, without themselves."""
        return reached(names, lambda name: self.jobs[name].needs)

    def downstream(self, names: Iterable[str], reach: Reach = "all") -> set[str]:
        """Return the jobs that need these jobs: of the components that do so directly, or all."""
        given = set(names)
        if reach == "none":
            return set()
        if reach == "all":
            return reached(given, self.consumers.__getitem__)
        components = {self.jobs[name].component for name in given}
        # A job of the same component is no further step: its hook and its image are one thing for a person.
        own = reached(
            given, lambda name: [n for n in self.consumers[name] if self.jobs[n].component in components]
        )
        next_ = {need for name in given | own for need in self.consumers[name]}
        return own | {name for name in next_ if self.jobs[name].component not in components}

    def _cycles(self, needs: dict[str, set[str]]) -> GraphError:
        """Return the error for the cycles of a graph, those that share no member with another one."""
        lines = cycle_lines(needs, self.reasons)
        own = any(provider == consumer for provider, consumer in self.reasons)
        hint = "remove one of these needs"
        if own:
            hint += "; where FROM means an image of elsewhere with the same name, write its tag"
        count = sum(line.startswith("  ") and not line.startswith("   ") for line in lines)
        text = "the graph has a cycle" if count == 1 else f"the graph has {count} cycles"
        return GraphError(text, detail="\n".join(lines), hint=hint)


def jobs_of(component: Component) -> list[Job]:
    """Return the jobs of a component, without what they need: its hooks and its images."""
    jobs = [
        Job(name=image.name, action=Action.IMAGE, component=component.name, image=image)
        for image in component.images
    ]
    for action, hook in ((Action.PRE, component.pre), (Action.POST, component.post)):
        if hook:
            jobs.append(Job(name=f"{component.name}:{action}", action=action, component=component.name))
    return jobs


def job_names(component: Component) -> list[str]:
    """Return the names of a component's jobs."""
    return [job.name for job in jobs_of(component)]


def _place(where: str, base: Reference) -> str:
    return f"{where}:{base.line}" if base.line else where
