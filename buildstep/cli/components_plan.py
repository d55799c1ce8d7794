"""`buildstep components plan`: what would run, what is reused, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from buildstep.cli.components_options import AFFECTED, DOWNSTREAM, SELECT, Work, with_work
from buildstep.cli.options import JSON, show, tell


@click.command("plan")
@SELECT
@AFFECTED
@DOWNSTREAM
@click.option(
    "--graph", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Draw the graph as well: FILE.svg, or FILE.html for a page.",
)  # fmt: skip
@click.option("--dot", is_flag=True, help="Print the graph in the DOT language of Graphviz.")
@with_work
@JSON
def command(
    work: Work,
    names: tuple[str, ...],
    words: tuple[str, ...],
    downstream: Any,
    graph: Path | None,
    dot: bool,
    as_json: bool,
) -> None:
    """Show what would run, what is reused, and why; nothing is changed.

    A job is an image, or a hook of a component: NAME:pre or NAME:post. A job runs if what goes into it is not
    what went into an earlier build: files, hooks, configuration, base images, and the results of what it
    needs. `check` is a job that runs only if something that runs before it gives another result.
    """
    from buildstep.components.plan_views import plan_dot, plan_json, plan_lines

    if dot and as_json:
        raise click.UsageError("--dot and --json cannot be used together")
    plan = work.plan(names, words, downstream)
    if graph is not None:
        from buildstep.components.plan_drawing import write_drawing

        write_drawing(plan, graph)
    for note in (*plan.selection.notes, *plan.graph.repository.notes, *plan.graph.notes):
        if not as_json:
            tell(f"note: {note}")
    show(plan_json(plan) if as_json else {}, plan_dot(plan) if dot else plan_lines(plan), as_json=as_json)
