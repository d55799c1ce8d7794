"""`buildstep service monitor`: ask services whether they are well, once or again and again."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from buildstep.cli import service_values
from buildstep.cli.options import JSON, show
from buildstep.cli.service_options import PATTERNS, with_repository
from buildstep.cli.service_run import names_of

if TYPE_CHECKING:
    from buildstep.services.repository import Repository


@click.command("monitor")
@PATTERNS
@click.option("--watch", is_flag=True,
              help="Go on: each as often as its recurring.monitor and .cleanup say.")  # fmt: skip
@click.option("--every", default="5m", metavar="SPAN", show_default=True,
              shell_complete=service_values.SPANS,
              help="How often a service that does not say it.")  # fmt: skip
@click.option("--restart", is_flag=True, help="Bring up what is dead or unhealthy.")
@click.option("-j", "--jobs", type=click.IntRange(1), default=None, metavar="N",
              help="Services at a time (default: 4, or one for each processor).")  # fmt: skip
@with_repository()
@click.option("-v", "--verbose", is_flag=True, help="Show all that actions print, on a terminal too.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors and the result.")
@JSON
def command(
    repository: Repository,
    *,
    patterns: Sequence[str],
    watch: bool,
    every: str,
    restart: bool,
    jobs: int | None,
    as_json: bool,
    **shown: bool,
) -> None:
    """Ask services, all that run or those that keys match, whether they are up and well.

    Exit code 23 if one is not. --restart: it is stopped and started; then the exit code tells of that.
    --watch never ends by itself: let systemd or a container run it.
    """
    from buildstep.errors import UsageError
    from buildstep.report.job_view import job_view
    from buildstep.services.apply import check
    from buildstep.services.console import View, summary
    from buildstep.services.flow import VERBS, How, Services
    from buildstep.services.inputs import seconds_of
    from buildstep.services.plan import Wish
    from buildstep.services.recurring import Rules, Watch

    if watch and as_json:
        raise UsageError("--watch and --json cannot be used together")
    names = names_of(repository, patterns)
    rules = Rules(every=seconds_of(every, "--every"), restart=restart)
    how = How(at_once=jobs or 0, keep_going=True)
    with (
        Services(repository, os.environ, secret=False) as services,
        View(job_view(sys.stderr, verbose=shown["verbose"], quiet=shown["quiet"])) as view,
    ):
        watching = Watch(services, names, view, rules, how)
        if watch:
            watching.run()
        outcome = services.run(Wish(verbs=VERBS["monitor"], names=names, named=False), view, how)
        if restart:
            outcome = watching.bring_up(outcome) or outcome
    text = summary(outcome)
    show(outcome.to_json(), [text], as_json=as_json, done=text)
    check(outcome)
