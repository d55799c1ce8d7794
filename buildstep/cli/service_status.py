"""`buildstep service status` and `log`: what is known of services, and what their actions have printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import service_values, values
from buildstep.cli.options import JSON, echo, show
from buildstep.cli.service_options import PATTERNS, chosen, with_repository
from buildstep.system.text import plural

if TYPE_CHECKING:
    from buildstep.report.tree_table import TreeRow
    from buildstep.services.flow import Services
    from buildstep.services.repository import Repository, Service
    from buildstep.services.status import Status

_HEAD = ("SERVICE", "STATE", "SINCE", "PLACE", "LAST ACTION", "TROUBLE")
_STYLES = {"up": "green", "unhealthy": "yellow", "dead": "bold red", "new": "dim", "down": "yellow",
           "unknown": "bold red"}  # fmt: skip


@click.command("status")
@PATTERNS
@click.option(
    "--ask", is_flag=True, help="First ask those that run whether they are up and well, as monitor does."
)
@click.option("--check", is_flag=True,
              help="Exit code 23 unless all are up, or disabled, and nothing is wrong.")  # fmt: skip
@with_repository()
@JSON
def status(repository: Repository, *, patterns: Sequence[str], ask: bool, check: bool, as_json: bool) -> None:
    """Show what is known of services: state, since when, where, the last action, and what is wrong.

    Of one service each action is shown as well. What is shown was true at the last action; whether it is now
    is found out with --ask.
    """
    from buildstep.services.flow import Services
    from buildstep.services.interface import ServiceError, Side
    from buildstep.services.status import detail, gather

    with Services(repository, os.environ, secret=False) as services:
        if ask:
            _ask(services, chosen(repository, patterns))
        found = gather(
            chosen(repository, patterns),
            services.book,
            lambda key: services.view.place(key, Side.NODE).describe(),
        )
    lines = detail(found[0]) if patterns and len(found) == 1 else _tree(found)
    show({"root": str(repository.root), "services": [row.to_json() for row in found]}, lines, as_json=as_json)
    bad = [row.service.key for row in found if not row.is_good]
    if check and bad:
        raise ServiceError(
            f"{plural(len(bad), 'service')} not as it should be: {', '.join(bad)}",
            hint="`buildstep service apply` brings up what is not; `service status KEY` says what is wrong",
        )


def _ask(services: Services, those: Sequence[Service]) -> None:
    """Ask services whether they are up and well; what they say is written down, and is no failure of this."""
    from buildstep.report.job_view import job_view
    from buildstep.services.brief import UNKNOWN, brief_of
    from buildstep.services.console import View
    from buildstep.services.flow import VERBS, How
    from buildstep.services.plan import Wish

    if not (names := tuple(row.key for row in those if brief_of(row).state != UNKNOWN)):
        return
    with View(job_view(sys.stderr, verbose=False, quiet=True)) as view:
        services.run(Wish(verbs=VERBS["monitor"], names=names, named=False), view, How(keep_going=True))


def _tree(found: Sequence[Status]) -> Iterator[str]:
    from buildstep.report.tree_table import plain_lines, terminal_lines

    rows = [_row(row) for row in found]
    if rows and sys.stdout is not None and sys.stdout.isatty():
        import shutil

        yield from terminal_lines(rows, _HEAD, shutil.get_terminal_size().columns)
    elif rows:
        yield from plain_lines(rows)
    up = sum(row.state == "up" for row in found)
    yield f"{plural(len(found), 'service')}, {up} up"


def _row(row: Status) -> TreeRow:
    from buildstep.report.tree_table import TreeRow
    from buildstep.services.records import stamp

    record = row.record
    state = f"{row.state}, disabled" if record.disabled else row.state
    since = stamp(record.since)[:19] + "Z" if record.since else ""
    own = row.service.id
    return TreeRow(
        len(row.service.path) - 1,
        f"{own.name}!{own.instance}",
        (state, since, row.place, record.last, row.trouble),
        _STYLES.get(row.state, ""),
    )


@click.command("log")
@click.argument("key", shell_complete=values.SERVICE_KEYS)
@click.argument("action", required=False, default="", shell_complete=service_values.SERVICE_LOGS)
@click.option("--run", "number", type=click.IntRange(1), metavar="N", help="Of this run (default: the last).")
@with_repository()
@JSON
def log(repository: Repository, *, key: str, action: str, number: int | None, as_json: bool) -> None:
    """Print what an ACTION of a service has printed: start, or mgmt.configure for one of the management side.

    Without ACTION: list the logs that there are. The last 10 of each action are kept.
    """
    from buildstep.errors import UsageError
    from buildstep.services.flow import Services

    with Services(repository, os.environ, secret=False) as services:
        book, service = services.book, repository.one(key)
    found = _logs(book.logs(service.key))
    if not action:
        rows = [{"action": name, "run": at, "path": str(path)} for name, at, path in found]
        lines = [f"{row['action']}  run {row['run']}  {row['path']}" for row in rows]
        show({"service": service.key, "logs": rows}, [*lines, plural(len(rows), "log")], as_json=as_json)
        return
    mine = {at: path for name, at, path in found if name in (action, f"node.{action}")}
    if not mine or (number is not None and number not in mine):
        known = ", ".join(sorted({name.removeprefix("node.") for name, _, _ in found})) or "none"
        which = f"run {number} of {action}" if number is not None and mine else action
        runs = f"runs: {', '.join(map(str, mine))}" if mine else f"actions with logs: {known}"
        raise UsageError(f"{service.key} has no log of {which}", hint=runs)
    at = max(mine) if number is None else number
    text = mine[at].read_text(encoding="utf-8", errors="replace")
    value: dict[str, Any] = {"service": service.key, "action": action, "run": at, "path": str(mine[at])}
    value["lines"] = text.splitlines()
    if as_json:
        show(value, (), as_json=True)
    else:
        echo(text, nl=False)


def _logs(rows: Sequence[tuple[int, Path]]) -> list[tuple[str, int, Path]]:
    """Return logs with the names of their actions, by name and number."""
    from buildstep.services.records import action_of

    found = [(action_of(path), number, path) for number, path in rows]
    return sorted(found, key=lambda row: (row[0], row[1]))
