"""What `prove` varies between two builds. A new variation is one row of VARIATIONS."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from buildstep.build.proving.job import Job
from buildstep.errors import Fault, SpecError
from buildstep.spec import schema
from buildstep.system import answered, namespaces

AHEAD = 400 * 86400 + 5 * 3600 + 17 * 60 + 41
"""Seconds by which the clock of the second build is ahead: another year, month, day, hour and minute."""

HOST_NAME = "prove-host-two"
KERNEL = "9.9.9-prove"
TIME_ZONE = "PRV-13:45"
"""As TZ has it (tzset(3)): 13 hours and 45 minutes east, known to every C library."""
LOCALE = "POSIX"
"""What is there everywhere, by a name that nobody uses."""
FOLDER = "another/place-of-the-proto-directory"
VARIABLE = "PROVE_SECOND_BUILD"


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """Something that is another in the second build.

    about: what, for people; cause: the class of a difference that it makes; vary: makes of a job one with it;
    why_not: returns why it cannot be varied on this machine, empty where it can.
    """

    about: str
    cause: str
    vary: Callable[[Job], Job]
    why_not: Callable[[], str] = lambda: ""


def _changed(job: Job, **what: object) -> Job:
    host = job.host_name or namespaces.HOST_NAME
    fields = {"kernel": os.uname().release, **dataclasses.asdict(job.changed), "host": host}
    return replace(job, changed=answered.Changed(**{**fields, **what}))


def _no_namespaces() -> str:
    return "" if namespaces.supported() else "this machine gives a build no namespaces of its own"


def _at_another_place(job: Job) -> Job:
    place = job.folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    return replace(job, proto_at=place)


def _umask(job: Job) -> Job:
    return replace(job, umask=second_umask())


def second_umask() -> int:
    """Return the umask of the second build."""
    ours = os.umask(0o022)
    os.umask(ours)
    return 0o022 if ours & 0o077 == 0o077 else 0o077


def _host(job: Job) -> Job:
    return (
        _changed(replace(job, host_name=HOST_NAME), host=HOST_NAME)
        if job.changed
        else replace(job, host_name=HOST_NAME)
    )


def _processors(job: Job) -> Job:
    return replace(job, processors=tuple(sorted(os.sched_getaffinity(0)))[:1])


def _one_processor() -> str:
    return "there is only one" if len(os.sched_getaffinity(0)) < 2 else ""


def _environment(job: Job) -> Job:
    home = job.folder / "home-of-the-second-build"
    home.mkdir(exist_ok=True)
    more = {"HOME": os.fspath(home), VARIABLE: "prove-second-build", "LOGNAME": "prove", "USER": "prove"}
    return replace(job, environ={**job.environ, **more})


def _in_image(job: Job, **variables: str) -> Job:
    return replace(job, environ={**job.environ, **variables}, image_env={**job.image_env, **variables})


VARIATIONS: Mapping[str, Variation] = {
    "path": Variation(
        about="where the proto directory, the outputs and the current directory are",
        cause="build path", vary=_at_another_place, why_not=_no_namespaces,
    ),
    "umask": Variation(about="the umask", cause="umask", vary=_umask),
    "host": Variation(
        about="the name of the host", cause="host name", vary=_host, why_not=_no_namespaces
    ),
    "kernel": Variation(
        about="the release of the kernel, as uname tells it", cause="kernel",
        vary=lambda job: _changed(job, kernel=KERNEL), why_not=answered.why_not,
    ),
    "clock": Variation(
        about="the day and the hour, in commands and scripts that have no network", cause="time stamp",
        vary=lambda job: _changed(job, seconds=AHEAD), why_not=answered.why_not,
    ),
    "timezone": Variation(
        about="the time zone (TZ)", cause="time zone", vary=lambda job: _in_image(job, TZ=TIME_ZONE)
    ),
    "locale": Variation(
        about="the locale (LC_ALL, LANG)", cause="locale",
        vary=lambda job: _in_image(job, LC_ALL=LOCALE, LANG=LOCALE),
    ),
    "order": Variation(
        about="in which order directories are listed", cause="directory order",
        vary=lambda job: _changed(job, reverse=True), why_not=answered.why_not,
    ),
    "cpus": Variation(
        about="how many processors there are to use", cause="processors", vary=_processors,
        why_not=_one_processor,
    ),
    "environment": Variation(
        about="HOME, the user's name and other variables of the build itself", cause="environment",
        vary=_environment,
    ),
}  # fmt: skip
"""By the names that --vary takes. Time goes on between two builds whatever is varied, and so do random
numbers, the numbers of processes and of inodes."""


def chosen(words: Sequence[str]) -> tuple[str, ...]:
    """Return the names that a list chooses: names, names with a dash in front for all but these, `none`; all
    of them for an empty one. Raises SpecError with every wrong word."""
    names = [name.strip() for word in words for name in word.split(",") if name.strip()]
    faults = [
        Fault(where="--vary", message=f"there is no variation {name!r}", hint=schema.near(name, VARIATIONS))
        for name in names
        if name.removeprefix("-") not in VARIATIONS and name not in ("all", "none")
    ]
    dropped = {name[1:] for name in names if name.startswith("-")}
    if dropped and len(dropped) < len(names):
        message = "names some to vary, and some not to vary; it can only be one of them"
        faults.append(Fault(where="--vary", message=message))
    if faults:
        raise SpecError("--vary", faults)
    if "none" in names:
        return ()
    if dropped or not names or "all" in names:
        return tuple(name for name in VARIATIONS if name not in dropped)
    return tuple(name for name in VARIATIONS if name in names)


def possible(names: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return those of some variations that this machine can make, and why not of each of the others."""
    found = {name: VARIATIONS[name].why_not() for name in names}
    return tuple(name for name, why in found.items() if not why), {n: why for n, why in found.items() if why}


def varied(job: Job, names: Sequence[str]) -> Job:
    """Return a job with all of these."""
    for name in names:
        job = VARIATIONS[name].vary(job)
    return job


def folder_of(job: Job) -> Path:
    """Return where a job has the proto directory."""
    return job.proto_at or job.spec.proto
