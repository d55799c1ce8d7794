"""`buildstep service enable` and `disable`: whether services are to run at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli.options import JSON, show
from buildstep.cli.service_options import with_repository
from buildstep.cli.service_run import ONES, names_of, run, running

if TYPE_CHECKING:
    from buildstep.services.flow import Services
    from buildstep.services.repository import Repository


@click.command("disable")
@ONES
@with_repository()
@running
def disable(
    repository: Repository, *, patterns: Sequence[str], jobs: int | None, keep_going: bool, **rest: Any
) -> None:
    """Stop services, after those that need them, and keep them down: nothing starts them until `enable`."""
    from buildstep.services.flow import VERBS, How
    from buildstep.services.plan import Wish

    names = names_of(repository, patterns)

    def off(services: Services, view: Any) -> None:
        for key in services.switch(names, view, disabled=True):
            view.tell(f"{key}: disabled")

    how = How(at_once=jobs or 0, keep_going=keep_going)
    run(repository, Wish(verbs=VERBS["stop"], names=names), how, after=off, **rest)


@click.command("enable")
@ONES
@with_repository()
@JSON
def enable(repository: Repository, *, patterns: Sequence[str], as_json: bool) -> None:
    """Let services run again. Refused while one that they need is disabled. They are not started by this."""
    from buildstep.report.job_view import Lines
    from buildstep.services.console import View
    from buildstep.services.flow import Services

    names = names_of(repository, patterns)
    with Services(repository, os.environ, secret=False) as services:
        changed = services.switch(names, View(Lines(sys.stderr)), disabled=False)
    lines = [f"{key}: {'enabled' if key in changed else 'was enabled'}" for key in names]
    lines.append("`buildstep service start` starts them")
    show({"enabled": changed}, lines, as_json=as_json, done=f"enabled: {', '.join(changed) or 'none'}")
