"""What the commands that look at components share: the repository, its configuration and its graph."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.options import pairs

if TYPE_CHECKING:
    from buildstep.components.flow import Opened
    from buildstep.components.graph import Graph
    from buildstep.components.plan import Plan, Selection

ROOT = click.option(
    "--root", type=click.Path(path_type=Path, file_okay=False, exists=True), default=".", metavar="DIR",
    help="The repository; it has the components in DIR/src (default: the current directory).",
)  # fmt: skip
CONFIG = click.option(
    "-c", "--config", type=click.Path(path_type=Path, exists=True), metavar="PATH",
    help="OpenPAI's services-configuration.yaml, or its directory.",
)  # fmt: skip
MODE = click.option(
    "--mode", default="", metavar="WORD", shell_complete=values.MODES,
    help="Leave out files of other modes, as NAME.MODE.dockerfile has them; all: none (default: k8s).",
)  # fmt: skip


def split_names(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names in values with commas between them: a callback for click."""
    return tuple(dict.fromkeys(name for value in given for name in value.split(",") if name))


SELECT = click.option(
    "-s", "--select", "names", multiple=True, metavar="NAME,...", callback=split_names,
    shell_complete=values.COMPONENTS,
    help="Only these components or images, and what they need.",
)  # fmt: skip
AFFECTED = click.option(
    "--affected-by", "words", multiple=True, metavar="REF|FILES", shell_complete=values.FILES,
    help="Only what changed since a commit of git, in A..B, or in FILE,FILE.",
)  # fmt: skip
DOWNSTREAM = click.option(
    "--downstream", type=click.Choice(("none", "direct", "all")), default="all", show_default=True,
    help="With --affected-by: how far to follow what is made from it.",
)  # fmt: skip


STATE = click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    envvar="BUILDSTEP_COMPONENTS_STATE", show_envvar=True, shell_complete=values.FOLDERS,
    help="Where builds are recorded (default: one for each repository, beside this user's pools).",
)  # fmt: skip
BUILDER = click.option(
    "--builder", metavar="NAME", default="", envvar="BUILDSTEP_COMPONENTS_BUILDER", show_envvar=True,
    help="buildah or docker (default: the first one that is there).",
)  # fmt: skip
ARGUMENTS = click.option(
    "--build-arg", "arguments", multiple=True, callback=pairs, metavar="KEY=VALUE",
    help="A value for ARG, in all images.",
)  # fmt: skip
LABELS = click.option(
    "--label", "labels", multiple=True, callback=pairs, metavar="KEY=VALUE", help="A label for all images."
)
PLATFORM = click.option(
    "--platform", "platforms", multiple=True, metavar="OS/ARCH", callback=split_names,
    help="What the images are for; repeat for more: each is built, and pushed as one.",
)  # fmt: skip
SECRETS = click.option(
    "--secret", "secrets", multiple=True, callback=pairs, metavar="KEY=FILE",
    help="A file for RUN --mount=type=secret; it is in no layer.",
)  # fmt: skip


def blanks(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words of values that have blanks between them: a callback for click."""
    return tuple(dict.fromkeys(word for value in given for word in value.split()))


HANDOVER = click.option(
    "--handover", multiple=True, metavar="URL", callback=blanks, envvar="BUILDSTEP_COMPONENTS_HANDOVER",
    show_envvar=True, shell_complete=values.STORES,
    help="Where other machines find jobs and put results: a store (dir:, s3://, ssh://), and for images "
    "docker://HOST/NAME as well.",
)  # fmt: skip


def decides_keys(job: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that decide what an image is, and where its builds are recorded."""
    for option in (HANDOVER, MODE, CONFIG, ROOT, STATE, BUILDER, SECRETS, PLATFORM, LABELS, ARGUMENTS):
        job = option(job)
    return job


def open_(root: Path, options: Mapping[str, Any]) -> Opened:
    """Return the opened repository for a command's options."""
    from buildstep.components.flow import open_components
    from buildstep.components.settings import Flags

    flags = Flags(
        config=options["config"],
        mode=options["mode"],
        arguments=options.get("arguments", {}),
        labels=options.get("labels", {}),
        platforms=options.get("platforms", ()),
        secrets=options.get("secrets", {}),
        no_cache=options.get("no_cache", False),
        pull=options.get("pull") or "",
        registry=options.get("registry") or "",
        tags=options.get("tags", ()),
        handover=options.get("handover", ()),
    )
    found = open_components(
        root, flags, environ=os.environ, state=options["state"], builder=options["builder"]
    )
    click.get_current_context().call_on_close(found.closing.close)
    return found


@dataclass(kw_only=True)
class Work:
    """A repository that a command looks at. options: those of `decides_keys`, by name."""

    root: Path
    options: Mapping[str, Any]

    @cached_property
    def opened(self) -> Opened:
        return open_(self.root, self.options)

    @property
    def graph(self) -> Graph:
        return self.opened.graph

    def plan(self, names: Sequence[str] = (), words: Sequence[str] = (), downstream: Any = "all") -> Plan:
        """Return the plan for the names of --select, and what --affected-by names."""
        from buildstep.components.base_images import known_bases
        from buildstep.components.plan import make_plan

        selection = selected(self.opened, names, words, downstream)
        known_bases(self.opened)
        return make_plan(self.graph, selection, self.opened.inputs, self.opened.records)


def selected(opened: Opened, names: Sequence[str], words: Sequence[str], downstream: Any) -> Selection:
    """Return what the options --select, --affected-by and --downstream choose."""
    from buildstep.components.affected import affected, find_change
    from buildstep.components.plan import select

    jobs: set[str] | None = None
    notes: list[str] = []
    if words:
        change = find_change(opened.graph.repository.root, words, cwd=Path.cwd())
        jobs, notes = affected(opened.graph, change, downstream)
    return select(opened.graph, names, affected=jobs, notes=notes)


def with_work(job: Callable[..., int | None]) -> Callable[..., int]:
    """Give a command the options that decide what an image is, and call it with a `Work` before its own
    options. It returns its exit code; None is 0. Signals and errors end it as any command."""

    @functools.wraps(job)
    def run(root: Path, **options: Any) -> int:
        import gc

        from buildstep.cli import guard

        gc.disable()  # see cli.build: a graph holds no cycles that come and go
        shared = {name: options.pop(name) for name in _SHARED}
        return guard.guarded(lambda: job(Work(root=root, options=shared), **options) or 0)

    return decides_keys(run)


_SHARED = ("config", "mode", "state", "builder", "arguments", "labels", "platforms", "secrets", "handover")
"""The options of `decides_keys`, without the root."""
