"""`buildstep cache`: what the layer cache holds, and getting rid of it."""

from __future__ import annotations

import json
import time
from typing import Any

import click

_POOL = click.option("--pool", metavar="URI", help="The pool (default: the one that builds use).")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group("cache", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """The layer cache of a pool: list, verify, prune."""


@command.command("list")
@_POOL
@_JSON
def list_(pool: str | None, as_json: bool) -> int:
    """List the cached layers, oldest first."""
    from buildstep.cli.session import enclosed, open_session

    def job() -> int:
        cache = open_session(pool, quiet=True, healing=False).cache
        rows: list[dict[str, Any]] = [
            {
                "key": record.key,
                "slot": record.slot,
                "created": record.created,
                "used": cache.last_used(record.key),
                "seconds": record.seconds,
                "inputs": dict(record.inputs),
            }
            for record in cache.records()
        ]
        if as_json:
            click.echo(json.dumps({"layers": rows}, indent=2))
            return 0
        for row in rows:
            age = (time.time() - float(row["used"])) / 3600
            click.echo(
                f"{row['key'][:12]}  {row['slot']:30}  made in {row['seconds']:.1f} s, used {age:.1f} h ago"
            )
        return 0

    return enclosed(job)


@command.command("verify")
@_POOL
@_JSON
def verify(pool: str | None, as_json: bool) -> int:
    """Read every cached layer and compare it with its record; what is wrong is removed and named."""
    from buildstep.cli.session import enclosed, open_session
    from buildstep.errors import ExitCode

    def job() -> int:
        session = open_session(pool, quiet=True)
        bad: list[dict[str, Any]] = session.cache.verify()
        if as_json:
            click.echo(json.dumps({"damaged": bad}, indent=2))
        else:
            for item in bad:
                click.echo(f"{item['key'][:12]} {item['slot']}: {item['problem']}; removed")
            click.echo(f"{len(session.cache.records())} layers are good, {len(bad)} were damaged")
        return ExitCode.DATASET if bad else ExitCode.OK

    return enclosed(job)


@command.command("prune")
@_POOL
@_JSON
@click.option("--older-than", metavar="DAYS", type=float, default=0.0, help="Only layers unused for so long.")
def prune(pool: str | None, as_json: bool, older_than: float) -> int:
    """Remove cached layers. Layers that a build stands on stay."""
    from buildstep.cli.session import enclosed, open_session

    def job() -> int:
        removed = open_session(pool, quiet=True).cache.prune(keep_seconds=older_than * 86400)
        click.echo(json.dumps({"removed": removed}) if as_json else f"{len(removed)} layers removed")
        return 0

    return enclosed(job)
