"""Whether programs of another platform can be run on this machine, as RUN of an image for it needs.

Source: binfmt_misc of the kernel (Documentation/admin-guide/binfmt-misc.rst): a file for each interpreter;
those of Debian's qemu-user-static are `qemu-` and the machine, as `uname -m` has it there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from buildstep.components.builders import Builder
from buildstep.components.interface import Built, GraphError, Job
from buildstep.formats.oci.spec import OciPlatform
from buildstep.system.text import plural

BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")

_NATIVE: Final[Mapping[str, Collection[str]]] = {"amd64": ("386",), "arm64": ("arm",)}
"""Older machines whose programs a processor runs, as a rule."""

_QEMU: Final[Mapping[str, str]] = {"amd64": "x86_64", "arm64": "aarch64", "386": "i386"}


def runs_here(platform: OciPlatform, *, here: OciPlatform | None = None, binfmt: Path = BINFMT) -> bool:
    """Return whether programs of a platform run on this machine, by itself or by an emulator."""
    own = (here or OciPlatform.here()).architecture
    wanted = platform.architecture
    if wanted == own or wanted in _NATIVE.get(own, ()):
        return True
    try:
        text = (binfmt / f"qemu-{_QEMU.get(wanted, wanted)}").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return False
    return text.startswith("enabled")


def foreign_runs(jobs: Collection[Job]) -> list[Job]:
    """Return the jobs that have to run programs which this machine cannot."""
    return [
        job
        for job in jobs
        if job.image is not None
        and job.image.runs
        and job.image.platform
        and not runs_here(OciPlatform.parse(job.image.platform))
    ]


def refuse(jobs: Collection[Job]) -> None:
    """Raise GraphError for jobs that have to run programs which this machine cannot."""
    if not jobs:
        return
    rows = [f"  {job.name}: RUN for {job.image.platform}" for job in jobs if job.image is not None]
    raise GraphError(
        f"this machine, {OciPlatform.here()}, cannot run what {plural(len(rows), 'image')} run"
        f"{'s' if len(rows) == 1 else ''} while being built",
        detail="\n".join(rows),
        hint="apt-get install qemu-user-static binfmt-support; or build these on machines of that platform",
    )


def check(
    jobs: Mapping[str, Job],
    builder: Callable[[], Builder],
    recorded: Callable[[Collection[str]], Mapping[str, Built | None]],
) -> None:
    """Raise GraphError for jobs that cannot be done here, and were not done from the same sources before.

    builder: opens what builds images; recorded: returns the builds of the jobs with these names.
    """
    foreign = {job.name for job in foreign_runs(jobs.values())}
    # An engine of docker may be on another machine, with what that can run.
    if foreign and builder().name == "buildah":
        known = recorded(foreign)
        refuse([jobs[name] for name in sorted(foreign) if known.get(name) is None])
