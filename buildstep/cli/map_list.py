"""`buildstep map list`, `resolve` and `check`: what is mapped, to whom, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from buildstep.cli import values
from buildstep.cli.map_options import COMPAT, MapWork, with_register
from buildstep.cli.options import JSON, show, tell
from buildstep.system.text import plural

if TYPE_CHECKING:
    from buildstep.assets.patterns import Resolution


@click.command("list")
@click.argument("pattern", metavar="[PATTERN]", required=False, shell_complete=values.PATTERNS)
@click.option(
    "--service",
    metavar="SERVICE",
    default="",
    shell_complete=values.MAPPED_SERVICES,
    help="Only mappings that have this service.",
)
@with_register
@JSON
def list_(work: MapWork, pattern: str | None, service: str, as_json: bool) -> None:
    """List all mappings of the register, or that of one pattern."""
    from buildstep.assets.interface import RegisterError

    found = work.register.read()
    for fault in found.faults:
        tell(f"note: {fault}")
    rows = {
        text: names
        for text, names in found.services.items()
        if (pattern is None or text == pattern) and (not service or service in names)
    }
    if pattern is not None and pattern not in found.services:
        raise RegisterError(
            f"the pattern {pattern!r} has no mapping in {work.register.url}",
            hint="`buildstep map list` shows all; `buildstep map resolve HOST` what a host has",
        )
    width = min(max(map(len, rows), default=0), 40)
    value = {
        "register": work.register.url,
        "mappings": {text: list(names) for text, names in rows.items()},
        "faults": list(found.faults),
    }
    lines = (f"{text:{width}}  {', '.join(names)}" for text, names in rows.items())
    show(value, lines, as_json=as_json)


@click.command("resolve")
@click.argument("host", metavar="[HOST]", required=False)
@COMPAT
@with_register
@JSON
def resolve(work: MapWork, host: str | None, as_json: bool) -> None:
    """Show which pattern wins a host (default: this one), its services, and why the others lose.

    Nothing is mapped: no pattern matches, and that is no error.
    """
    from buildstep.assets import patterns
    from buildstep.assets.places import this_host

    found = work.register.read()
    for fault in found.faults:
        tell(f"note: {fault}")
    name = host or work.host or this_host()
    resolution = patterns.resolve(found.services, name, compat=work.compat)
    value = {
        "register": work.register.url,
        "host": name,
        "pattern": resolution.winner,
        "services": list(resolution.services),
        "losers": [
            {"pattern": lost.pattern, "services": list(lost.services), "reason": lost.reason}
            for lost in resolution.losers
        ],
        "skipped": [{"pattern": text, "reason": reason} for text, reason in resolution.skipped],
        "compat": work.compat,
    }
    show(value, _resolution_lines(resolution), as_json=as_json)


def _resolution_lines(resolution: Resolution) -> Iterator[str]:
    if resolution.winner is None:
        yield f"{resolution.host}: no pattern matches"
    else:
        yield f"{resolution.host}: {', '.join(resolution.services) or 'no services'}"
        yield f"  {resolution.winner} wins"
    for lost in resolution.losers:
        yield f"  {lost.pattern} loses: it {lost.reason} ({', '.join(lost.services) or 'no services'})"
    for text, reason in resolution.skipped:
        yield f"  {text} is left out: it is no pattern, {reason}"


@click.command("check")
@COMPAT
@with_register
@JSON
def check(work: MapWork, as_json: bool) -> int:
    """Find what is wrong with the mappings: patterns that no host can win, ties, what is no pattern.

    Patterns that match some hosts in common, and others not, are shown as well. Exits with 21 if something
    is wrong.
    """
    from buildstep.assets.map_check import check as check_all
    from buildstep.errors import ExitCode

    read = work.register.read()
    found = check_all(read, compat=work.compat)
    wrong = sum(finding.wrong for finding in found)
    value = {
        "register": work.register.url,
        "mappings": len(read.services),
        "wrong": wrong,
        "findings": [asdict(finding) for finding in found],
        "compat": work.compat,
    }
    lines = [f"{'error' if finding.wrong else 'note'}: {finding}" for finding in found]
    count = plural(len(read.services), "mapping")
    verdict = f"{count}: {plural(wrong, 'error')}" if wrong else f"{count}: nothing is wrong"
    show(value, [*lines, verdict], as_json=as_json)
    return ExitCode.REGISTER if wrong else ExitCode.OK
