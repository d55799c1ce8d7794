"""`buildstep components`: a repository of images, some made from others, as one graph."""

from __future__ import annotations

import click

from buildstep.cli.lazy_group import LazyGroup

ROWS = {
    "list": ("buildstep.cli.components_list:command", "List components, their images, and what they need."),
    "plan": ("buildstep.cli.components_plan:command", "Show what would run, what is reused, and why."),
    "build": ("buildstep.cli.components_build:command", "Build what changed, and what is made from that."),
    "push": ("buildstep.cli.components_push:command", "Push images that are built, by digest, with tags."),
    "work": ("buildstep.cli.components_work:command", "Do one job of a build on another machine."),
    "why": ("buildstep.cli.components_why:command", "Show why a component or image would run."),
}
"""See `LazyGroup`."""


@click.group("components", cls=LazyGroup, rows=ROWS)
def command() -> None:
    """Components: directories `src/NAME/build`, each with images, some made from those of others.

    Laid out as OpenPAI's build tool has them: `*.dockerfile`, `component.dep`, `build-pre.sh` and
    `build-post.sh`; and `*.image.json` for images that buildstep itself builds.
    """
