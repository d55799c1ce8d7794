"""What the commands that look at components share: the repository, its configuration and its graph."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values

if TYPE_CHECKING:
    from buildstep.components.flow import Opened
    from buildstep.components.graph import Graph
    from buildstep.components.plan import Plan

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


@dataclass(kw_only=True)
class Work:
    """A repository that a command works in. environ: variables of this process."""

    root: Path
    config: Path | None = None
    mode: str = ""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @cached_property
    def opened(self) -> Opened:
        from buildstep.components.flow import open_components
        from buildstep.components.settings import Flags

        return open_components(self.root, Flags(config=self.config, mode=self.mode), environ=self.environ)

    @property
    def graph(self) -> Graph:
        return self.opened.graph

    def plan(self, names: Sequence[str] = (), words: Sequence[str] = (), downstream: Any = "all") -> Plan:
        """Return the plan for the names of --select, and what --affected-by names."""
        from buildstep.components.affected import affected, find_change
        from buildstep.components.flow import known_bases
        from buildstep.components.plan import make_plan, select

        jobs: set[str] | None = None
        notes: list[str] = []
        if words:
            change = find_change(self.root, words, cwd=Path.cwd())
            jobs, notes = affected(self.graph, change, downstream)
        selection = select(self.graph, names, affected=jobs, notes=notes)
        known_bases(self.opened)
        return make_plan(self.graph, selection, self.opened.inputs, self.opened.records)


def with_work(job: Callable[..., int | None]) -> Callable[..., int]:
    """Give a command the options --root, --config and --mode, and call it with a `Work` before its own
    options. It returns its exit code; None is 0. Signals and errors end it as any command."""

    @functools.wraps(job)
    def run(root: Path, config: Path | None, mode: str, **options: Any) -> int:
        import gc

        from buildstep.cli import guard

        gc.disable()  # see cli.build: a graph holds no cycles that come and go

        def inside() -> int:
            return job(Work(root=root, config=config, mode=mode), **options) or 0

        return guard.guarded(inside)

    return ROOT(CONFIG(MODE(run)))
