"""Jobs that run programs of another platform than this machine's, as RUN of an image for it does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from buildstep.components.builders import Builder
from buildstep.components.interface import Built, GraphError, Image, Job
from buildstep.formats.oci.spec import OciPlatform
from buildstep.rootfs.emulation import HINT, can_run, runs_here
from buildstep.system.text import plural


def foreign_runs(jobs: Collection[Job], runs: Callable[[OciPlatform], bool] = runs_here) -> list[Job]:
    """Return the jobs that have to run programs which this machine cannot. runs: whether it can."""
    return [
        job
        for job in jobs
        if job.image is not None
        and job.image.runs
        and job.image.platform
        and not runs(OciPlatform.parse(job.image.platform))
    ]


def refuse(jobs: Collection[Job]) -> None:
    """Raise GraphError for jobs that have to run programs which this machine cannot."""
    if not jobs:
        return
    rows = [f"  {job.name}: {_what(job.image)} for {job.image.platform}" for job in jobs if job.image]
    raise GraphError(
        f"this machine, {OciPlatform.here()}, cannot run what {plural(len(rows), 'image')} run"
        f"{'s' if len(rows) == 1 else ''} while being built",
        detail="\n".join(rows),
        hint=HINT,
    )


def _what(image: Image) -> str:
    return "RUN" if image.kind == "dockerfile" else "packages or commands"


def check(
    jobs: Mapping[str, Job],
    builder: Callable[[], Builder],
    recorded: Callable[[Collection[str]], Mapping[str, Built | None]],
) -> None:
    """Raise GraphError for jobs that cannot be done here, and were not done from the same sources before.

    builder: opens what builds images; recorded: returns the builds of the jobs with these names.
    """
    foreign = {job.name for job in foreign_runs(jobs.values(), can_run)}
    # An engine of docker may be on another machine, with what that can run.
    if foreign and builder().name == "buildah":
        known = recorded(foreign)
        refuse([jobs[name] for name in sorted(foreign) if known.get(name) is None])
