"""What the surroundings of two builds were, as texts and times that can turn up in their files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from buildstep.build.proving.job import Outcome
from buildstep.build.proving.variations import TIME_ZONE, VARIABLE
from buildstep.system import namespaces

_SLACK = 2.0
"""Seconds that a file's time may be beside those of the build: some formats have only even ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The surroundings of one build.

    markers: texts by the class of a difference that has them; unmistakable: such a class, and a text that is
    nowhere but in these surroundings; times: spans in seconds since 1970 in which its clocks were, the true
    one and that of the image.
    """

    markers: Mapping[str, tuple[str, ...]]
    unmistakable: tuple[tuple[str, str], ...]
    times: tuple[tuple[float, float], ...]

    def has_time(self, seconds: float) -> bool:
        """Whether a time is one at which something of the build ran."""
        return any(begin <= seconds <= end for begin, end in self.times)

    @classmethod
    def of(cls, outcome: Outcome) -> World:
        """Return those of a build that was done."""
        job = outcome.job
        true = (outcome.began - _SLACK, outcome.ended + _SLACK)
        ahead = job.changed.seconds
        processors = len(job.processors) or len(os.sched_getaffinity(0))
        umask = _umask() if job.umask is None else job.umask
        kernel = job.changed.kernel or os.uname().release
        proto = os.fspath(job.proto_at or job.spec.proto)
        locale = job.image_env.get("LC_ALL", "")
        markers = {
            "host name": (job.host_name or namespaces.HOST_NAME,),
            "kernel": (kernel,),
            "build path": (proto, os.fspath(job.spec.output_dir), os.fspath(job.folder)),
            "umask": (f"{umask:04o}", f"{umask:03o}", f"0{umask:03o}"),
            "processors": (str(processors), f"-j{processors}"),
            "locale": (locale,) if locale else ("C.UTF-8", "C.utf8", "C"),
            "time zone": ("PRV", "+1345") if job.image_env.get("TZ") == TIME_ZONE else ("UTC", "+0000", "Z"),
            "environment": (job.environ.get("HOME", "/root"),),
        }
        own = (
            ("host name", job.host_name), ("kernel", job.changed.kernel),
            ("time zone", job.image_env.get("TZ", "")), ("locale", locale),
            ("build path", os.fspath(job.proto_at or "")), ("environment", job.environ.get(VARIABLE, "")),
        )  # fmt: skip
        shifted = (true[0] + ahead, true[1] + ahead)
        return cls(
            markers=markers,
            unmistakable=tuple(row for row in own if row[1]),
            times=(true, shifted) if ahead else (true,),
        )


def _umask() -> int:
    ours = os.umask(0o022)
    os.umask(ours)
    return ours
