"""`buildstep cache`: what a pool keeps to be quick, and getting rid of it."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import click

_POOL = click.option("--pool", metavar="URI", help="The pool (default: the one that builds use).")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,15})([kmgt]?)i?b?", value.lower())
    if match is None:
        raise click.BadParameter(f"{value!r} is not a number of bytes, such as 500M or 20G")
    return int(match[1]) * _UNITS[match[2]]


@click.group("cache", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """What a pool keeps to be quick: list, size, verify, prune."""


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
                "size": record.size,
                "inodes": record.inodes,
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
                f"{row['key'][:12]}  {row['slot']:30}  {row['size'] >> 20:6} MiB"
                f"  made in {row['seconds']:.1f} s, used {age:.1f} h ago"
            )
        return 0

    return enclosed(job)


@command.command("size")
@_POOL
@_JSON
def size(pool: str | None, as_json: bool) -> int:
    """Tell how much is kept, by kind, and how much may be."""
    from buildstep.cache import prune as cache_prune
    from buildstep.cli.session import enclosed, open_session

    def job() -> int:
        session = open_session(pool, quiet=True, healing=False)
        kinds: dict[str, dict[str, int]] = {}
        for item in cache_prune.items(session.cache):
            row = kinds.setdefault(item.kind, {"count": 0, "bytes": 0, "inodes": 0})
            row["count"] += 1
            row["bytes"] += item.size
            row["inodes"] += item.inodes
        total = {name: sum(row[name] for row in kinds.values()) for name in ("count", "bytes", "inodes")}
        limits = session.limits
        told = {"kinds": kinds, **total, "max_bytes": limits.bytes, "max_inodes": limits.inodes}
        if as_json:
            click.echo(json.dumps(told, indent=2))
            return 0
        for kind, row in [*sorted(kinds.items()), ("all", total)]:
            click.echo(
                f"{kind:10} {row['count']:7}  {row['bytes'] / (1 << 20):10.1f} MiB  {row['inodes']:8} inodes"
            )
        click.echo(f"{'limit':10} {'':7}  {limits.bytes / (1 << 20):10.1f} MiB  {limits.inodes:8} inodes")
        return 0

    return enclosed(job)


@command.command("verify")
@_POOL
@_JSON
def verify(pool: str | None, as_json: bool) -> int:
    """Read all that is kept and compare it with its records; what is wrong is removed and named."""
    from buildstep.cache import prune as cache_prune
    from buildstep.cli.session import enclosed, open_session
    from buildstep.errors import ExitCode

    def job() -> int:
        session = open_session(pool, quiet=True)
        bad: list[dict[str, str]] = cache_prune.verify(session.cache)
        if as_json:
            click.echo(json.dumps({"damaged": bad}, indent=2))
        else:
            for item in bad:
                click.echo(f"{item['kind']} {item['key'][:12]} {item['slot']}: {item['problem']}; removed")
            good = [item for item in cache_prune.items(session.cache) if item.used]
            click.echo(f"{len(good)} things are good, {len(bad)} were damaged")
        return ExitCode.DATASET if bad else ExitCode.OK

    return enclosed(job)


@command.command("prune")
@_POOL
@_JSON
@click.option("--older-than", metavar="DAYS", type=float, help="What was of no use for so long.")
@click.option("--max-bytes", metavar="SIZE", callback=_size, help="Keep no more than this, such as 10G.")
@click.option(
    "--max-inodes", metavar="COUNT", type=click.IntRange(min=0), help="Keep no more files than this."
)
def prune(
    pool: str | None, as_json: bool, older_than: float | None, max_bytes: int | None, max_inodes: int | None
) -> int:
    """Remove what is kept, what was of use longest ago first; without an option, all of it.

    What a build uses at the moment stays. Every build keeps the limits by itself: those of the
    configuration (BUILDSTEP_CACHE_MAX_BYTES, BUILDSTEP_CACHE_MAX_INODES).
    """
    from buildstep.cache import prune as cache_prune
    from buildstep.cli.session import enclosed, open_session

    def job() -> int:
        limits = None
        if older_than is not None or max_bytes is not None or max_inodes is not None:
            limits = cache_prune.Limits(
                bytes=max_bytes or 0,
                inodes=max_inodes or 0,
                keep_seconds=None if older_than is None else older_than * 86400,
            )
        removed = cache_prune.prune(open_session(pool, quiet=True).cache, limits)
        freed = sum(item.size for item in removed)
        if as_json:
            layers = [item.name for item in removed if item.kind == "layer"]
            told = {"removed": layers, "items": [item.to_json() for item in removed], "bytes": freed}
            click.echo(json.dumps(told, indent=2))
        else:
            click.echo(f"{len(removed)} things removed, {freed / (1 << 20):.1f} MiB")
        return 0

    return enclosed(job)
