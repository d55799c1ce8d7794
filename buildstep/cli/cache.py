"""`buildstep cache`: show, check and remove what a pool caches."""

from __future__ import annotations

import os
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import cache_shared, values
from buildstep.cli.cache_shared import SHARED_URL
from buildstep.cli.options import JSON, show, with_session
from buildstep.system.text import plural, size_text

if TYPE_CHECKING:
    from buildstep.cli.session import Session
    from buildstep.images.pool_archive import Contents

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,15})([kmgt]?)i?b?", value.lower())
    if match is None:
        raise click.BadParameter(f"{value!r} is not a number of bytes, such as 500M or 20G")
    return int(match[1]) * _UNITS[match[2]]


@click.group("cache")
def command() -> None:
    """The caches of a pool: list, size, verify, prune; export and import for a CI; warm and doctor for the
    cache that agents share."""


command.add_command(cache_shared.warm)
command.add_command(cache_shared.doctor)


@command.command("list")
@with_session(quiet=True, healing=False)
@JSON
def list_(session: Session, as_json: bool) -> None:
    """List the cached layers, oldest first."""
    rows: list[dict[str, Any]] = [
        {
            "key": record.key,
            "slot": record.slot,
            "created": record.created,
            "used": session.cache.last_used(record.key),
            "seconds": record.seconds,
            "size": record.size,
            "inodes": record.inodes,
            "inputs": dict(record.inputs),
        }
        for record in session.cache.records()
    ]
    lines = (
        f"{row['key'][:12]}  {row['slot']:30}  {row['size'] >> 20:6} MiB"
        f"  made in {row['seconds']:.1f} s, used {(time.time() - row['used']) / 3600:.1f} h ago"
        for row in rows
    )
    show({"layers": rows}, lines, as_json=as_json)


@command.command("size")
@with_session(quiet=True, healing=False)
@JSON
def size(session: Session, as_json: bool) -> None:
    """Show how much is cached, by kind, and the limits."""
    from buildstep.cache import prune as cache_prune

    kinds: dict[str, dict[str, int]] = {}
    for item in cache_prune.items(session.cache):
        row = kinds.setdefault(item.kind, {"count": 0, "bytes": 0, "inodes": 0})
        row["count"] += 1
        row["bytes"] += item.size
        row["inodes"] += item.inodes
    total = {name: sum(row[name] for row in kinds.values()) for name in ("count", "bytes", "inodes")}
    limits = session.limits
    lines = [
        f"{kind:10} {row['count']:7}  {row['bytes'] / (1 << 20):10.1f} MiB  {row['inodes']:8} inodes"
        for kind, row in [*sorted(kinds.items()), ("all", total)]
    ]
    lines.append(f"{'limit':10} {'':7}  {limits.bytes / (1 << 20):10.1f} MiB  {limits.inodes:8} inodes")
    facts = {"kinds": kinds, **total, "max_bytes": limits.bytes, "max_inodes": limits.inodes}
    show(facts, lines, as_json=as_json)


@command.command("verify")
@with_session(quiet=True)
@JSON
@click.option("--dry-run", is_flag=True, help="Only name what is damaged; change nothing.")
def verify(session: Session, as_json: bool, dry_run: bool) -> int:
    """Read all that the pool keeps and compare it with its digests, base images and the journal included.

    What is damaged is named, with its file and what to do. What can be made again is removed, unless a build
    uses it; a damaged base image stays, and is imported again by the next build. Exit code 10 if anything was
    damaged.
    """
    from buildstep.build import kept
    from buildstep.cache import prune as cache_prune
    from buildstep.errors import ExitCode

    bad: list[dict[str, Any]] = []
    lines = []
    for it, mended in kept.verify(session.backend, mend=not dry_run):
        bad.append(
            {
                "kind": it.kind, "key": it.name, "slot": it.about, "problem": it.problem,
                "file": os.fspath(it.file), "remedy": it.remedy, "removed": mended,
            }
        )  # fmt: skip
        end = "removed, or made again" if mended else it.remedy
        lines.append(f"{it.kind} {it.name[:12]} {it.about}: {it.problem}: {it.file}; {end}")
    if not as_json:
        good = sum(bool(item.used) for item in cache_prune.items(session.cache))
        lines.append(f"{plural(good, 'item')} OK, {len(bad)} damaged")
    show({"damaged": bad}, lines, as_json=as_json, done=f"{len(bad)} damaged")
    return ExitCode.DATASET if bad else ExitCode.OK


@command.command("prune")
@with_session(quiet=True)
@JSON
@click.option("--older-than", metavar="DAYS", type=float, help="What was not used for so long.")
@click.option(
    "--max-bytes", "--max-size", metavar="SIZE", callback=_size, help="Keep no more than this, such as 10G."
)
@click.option(
    "--max-inodes", metavar="COUNT", type=click.IntRange(min=0), help="Keep no more files than this."
)
@click.option("--shared", is_flag=True, help="Of the cache that agents share, not of this pool.")
@SHARED_URL
def prune(
    session: Session,
    as_json: bool,
    older_than: float | None,
    max_bytes: int | None,
    max_inodes: int | None,
    **shared: Any,
) -> None:
    """Remove cached items, those not used for longest first; without an option, all of them.

    What a build uses at the moment stays. Every build keeps the limits of the configuration by itself
    (BUILDSTEP_CACHE_MAX_BYTES, BUILDSTEP_CACHE_MAX_INODES).
    """
    from buildstep.cache import prune as cache_prune

    if shared["shared"] or shared["shared_cache"]:
        _prune_shared(session, shared["shared_cache"], older_than, max_bytes, as_json=as_json)
        return
    limits = None
    if older_than is not None or max_bytes is not None or max_inodes is not None:
        limits = cache_prune.Limits(
            bytes=max_bytes or 0,
            inodes=max_inodes or 0,
            keep_seconds=None if older_than is None else older_than * 86400,
        )
    removed = cache_prune.prune(session.cache, limits)
    freed = sum(item.size for item in removed)
    layers = [item.name for item in removed if item.kind == "layer"]
    facts = {"removed": layers, "items": [item.to_json() for item in removed], "bytes": freed}
    line = f"{plural(len(removed), 'item')} removed, {size_text(freed)}"
    show(facts, [line], as_json=as_json, done=line)


def _prune_shared(
    session: Session, url: str | None, older_than: float | None, max_bytes: int | None, *, as_json: bool
) -> None:
    """Remove records that nobody used for longest, and the bytes that none of the others names."""
    from buildstep.cache.shared import open_store
    from buildstep.cli import shared
    from buildstep.errors import UsageError

    if older_than is None and max_bytes is None:
        raise UsageError(
            "a shared cache is not emptied", hint="give --older-than DAYS, --max-size SIZE, or both"
        )
    settings = shared.of_command(url, session.config)
    store = open_store(settings, session.backend.state, session.environ, session.bus)
    try:
        done = store.prune(older_than=None if older_than is None else older_than * 86400, max_size=max_bytes)
    finally:
        store.close()
    facts = asdict(done)
    line = (
        f"{plural(done.records, 'record')} removed, {size_text(done.freed)}; {size_text(done.left)} stay,"
        f" {size_text(done.waiting)} go in a day"
    )
    show(facts, [line], as_json=as_json, done=line)


@command.command("export")
@click.argument("file", type=click.Path(dir_okay=False), shell_complete=values.FILES)
@with_session(quiet=True)
@JSON
def export(session: Session, file: str, as_json: bool) -> None:
    """Write the base images and layers of the pool to one file, for the cache of a CI.

    FILE: a tar file; its name may end in .gz or .zst. What the cache of a CI loses of a tree (devices, links,
    owners, attributes) is safe in it.
    """
    from buildstep.images import pool_archive
    from buildstep.pool.journal import open_journal

    with open_journal(session.backend.state, f"cache export {file}") as journal:
        written = pool_archive.export(session.store, session.cache, journal, Path(file))
    _show(written, "exported", as_json=as_json)


@command.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False), shell_complete=values.FILES)
@with_session(quiet=True)
@JSON
def import_(session: Session, file: str, as_json: bool) -> None:
    """Bring the base images and layers of a file into the pool, those that it has not.

    Each is read and compared with its list by the first build that uses it; what is damaged is made again.
    """
    from buildstep.images import pool_archive
    from buildstep.pool.journal import open_journal

    with open_journal(session.backend.state, f"cache import {file}") as journal:
        taken = pool_archive.take_in(session.store, journal, Path(file))
    _show(taken, "imported", as_json=as_json)


def _show(contents: Contents, done: str, *, as_json: bool) -> None:
    from buildstep.images.pool_archive import counted

    facts = {"images": list(contents.images), "layers": list(contents.layers), "bytes": contents.size}
    line = f"{counted(contents)} {done}, {size_text(contents.size)}"
    show(facts, [line], as_json=as_json, done=line)
