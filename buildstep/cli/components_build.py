"""`buildstep components build`: build what has changed, and what is made from that."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from buildstep.cli import values
from buildstep.cli.components_options import (
    AFFECTED,
    DOWNSTREAM,
    SELECT,
    decides_keys,
    open_,
    selected,
)
from buildstep.cli.options import JSON, show


@click.command("build")
@SELECT
@AFFECTED
@DOWNSTREAM
@click.option(
    "--executor",
    metavar="NAME",
    default="",
    shell_complete=values.EXECUTORS,
    envvar="BUILDSTEP_COMPONENTS_EXECUTOR",
    show_envvar=True,
    help="Where jobs run (default: local). Other machines need --handover.",
)
@click.option("--worker-label", "worker_labels", multiple=True, metavar="LABEL",
              help="What a machine must have to be given jobs; repeat for more.")  # fmt: skip
@click.option("-j", "--jobs", type=click.IntRange(1), metavar="N", default=None,
              help="Jobs at a time (default: what processors, memory and disk have room for).")  # fmt: skip
@click.option(
    "-k", "--keep-going", is_flag=True, help="After a failure, build all that does not depend on it."
)
@click.option("--again", is_flag=True, help="Build what was selected even if its result is known.")
@click.option("--no-cache", is_flag=True, help="Use no layer that the builder has kept.")
@click.option("--pull", type=click.Choice(("missing", "always", "never")), default=None,
              help="When base images from elsewhere are fetched (default: missing).")  # fmt: skip
@click.option("--keep-stages", is_flag=True, help="Leave the staged components, and say where.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write JUnit with a case for each component.")  # fmt: skip
@click.option("--graph", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Draw what became of the graph: FILE.svg, or FILE.html with a timeline.")  # fmt: skip
@decides_keys
@JSON
@click.option("-v", "--verbose", is_flag=True, help="Show all output of the jobs, on a terminal too.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors and the result.")
def command(root: Path, **options: Any) -> int:
    """Build components that changed, what is made from them, and what they need; all the others are reused.

    A job is an image, or a hook of a component: NAME:pre or NAME:post. Each component is built in a copy of
    its own: nothing in the repository is written to. What a failed or interrupted run has finished is known
    to the next one. Exit code 15 if a job failed.
    """
    from buildstep.cli import guard

    return guard.enclosed(lambda: _build(root, **options))


def _build(
    root: Path,
    *,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    junit: Path | None,
    graph: Path | None,
    **options: Any,
) -> int:
    from buildstep.components import report
    from buildstep.components.console import summary, view_for
    from buildstep.components.flow import How, Outcome, build
    from buildstep.components.run import Rules, check
    from buildstep.system import namespaces

    if graph is not None:
        _drawing().check_name(graph)
    opened = open_(root, options)
    selection = selected(opened, options["names"], options["words"], options["downstream"])
    with view_for(sys.stderr, verbose=verbose, quiet=quiet) as view:
        for note in (*selection.notes, *opened.graph.repository.notes, *opened.graph.notes):
            view.tell(f"note: {note}")
        how = How(
            rules=Rules(keep_going=options["keep_going"], again=selection.chosen if options["again"] else ()),
            executor=options["executor"],
            options={"labels": list(options["worker_labels"])} if options["worker_labels"] else {},
            at_once=options["jobs"] or 0,
            keep=options["keep_stages"],
            # What is mounted would be gone when somebody looks at the stages.
            mounting=namespaces.supported() and not options["keep_stages"],
            say=view.say,
            placed=view.placed,
            tell=view.tell,
        )
        if selection.chosen or not options["words"]:
            outcome = build(opened, selection, view, how)
        else:
            view.tell("no component is affected")
            outcome = Outcome(jobs={}, results={}, started=time.time(), seconds=0.0)
    if junit is not None:
        from buildstep.components.junit import write_junit

        write_junit(junit, outcome)
    if graph is not None:
        _drawing().write_run(
            opened.graph, outcome.jobs, outcome.results, opened.records, graph, outcome.seconds
        )
    text = summary(outcome.results, outcome.seconds)
    show(report.to_json(outcome), [text], as_json=as_json, done=text)
    check(outcome.results)
    return 0


def _drawing() -> ModuleType:
    """Return what draws a graph; it is not imported for the builds without, as that takes a while."""
    from buildstep.components import plan_drawing

    return plan_drawing
