"""Base images from elsewhere: which of them are here, and what is fetched before a build."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from buildstep.components.engine import Tell
from buildstep.components.interface import Job
from buildstep.components.references import base_key
from buildstep.errors import BuildstepError, ToolMissing
from buildstep.files.parallel import parallel
from buildstep.system import process

if TYPE_CHECKING:
    from buildstep.components.flow import Opened

FETCHES: Final = 4
"""Base images that are looked up or fetched at the same time."""


def find_bases(opened: Opened, jobs: Mapping[str, Job], tell: Tell, *, pull: str = "always") -> None:
    """Look up the base images from elsewhere that jobs need, so that a new one of a name is noticed.

    pull: what is fetched from a registry at most, as the setting of that name says it. One that cannot be had
    is told; the image that needs it fails then.
    """
    pulls: dict[tuple[str, str], str] = {}
    for name in jobs:
        for text in opened.graph.external.get(name, ()):
            if text != "scratch":
                options = opened.settings.options(name)
                key = text, options.platform
                pulls[key] = "always" if "always" in (options.pull, pulls.get(key)) else options.pull
    if not pulls:
        return
    builder = opened.builder()

    def find(key: tuple[str, str]) -> tuple[str, str]:
        identity = builder.resolve(*key)
        if "never" in (pull, pulls[key]) or (identity and "missing" in (pull, pulls[key])):
            return identity, ""
        try:
            builder.fetch(*key, lambda argv, env, what: process.run(argv, env=env, what=what))
        except BuildstepError as error:
            return (
                identity,
                f"{error.message}: {error.detail.strip().splitlines()[0] if error.detail else ''}",
            )
        return builder.resolve(*key), ""

    for (text, platform), (identity, problem) in zip(pulls, parallel(find, pulls, FETCHES), strict=True):
        if identity:
            opened.bases[base_key(text, platform)] = identity
        if problem:
            tell(f"the base image {text} could not be fetched: {problem}")


def known_bases(opened: Opened) -> None:
    """Look up the base images of what was built before, as far as they are here; for a plan."""
    built = {name: job for name, job in opened.graph.jobs.items() if opened.records.last(name) is not None}
    with contextlib.suppress(ToolMissing):
        find_bases(opened, built, lambda _text: None, pull="never")
