"""`buildstep assets verify`: read assets, and compare them with what was recorded of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.assets_options import TRUSTED, Work, found, with_assets
from buildstep.cli.options import JSON, QUIET, show
from buildstep.system.text import plural

if TYPE_CHECKING:
    from buildstep.assets.verify import Verified


@click.command("verify")
@click.argument("service", required=False, default="", shell_complete=values.SERVICES)
@click.argument("version", required=False, default="", shell_complete=values.VERSIONS)
@TRUSTED
@with_assets
@JSON
@QUIET
def command(
    work: Work,
    service: str,
    version: str,
    trusted: tuple[str, ...],
    *,
    as_json: bool,
    quiet: bool,
) -> int:
    """Read all assets of a store, of one SERVICE or one VERSION of it, and compare checksums.

    With --key, or trusted keys in the configuration, one of them must have signed each. An asset that daybook
    pushed has no checksum: it is told, and is no fault. Exit code 16 if something is wrong.
    """
    from buildstep.assets.verify import verify
    from buildstep.errors import ExitCode
    from buildstep.report.progress import progress

    store = work.store()
    keys = work.trusted(trusted)
    only = found(store, service, version) if version else None
    rows = [row for row in store.list(service) if only in (None, row.name)]
    rows.sort(key=lambda row: row.name)
    with progress("verify", len(rows), sum(row.size for row in rows), quiet=quiet) as advance:
        done = list(verify(store, [row.name for row in rows], keys, advance))
    bad = [row for row in done if row.problem]
    value = {"store": store.url, "assets": [_row(row) for row in done], "bad": len(bad)}
    show(value, _lines(done), as_json=as_json, done=f"{len(bad)} bad")
    return ExitCode.STORE if bad else ExitCode.OK


def _row(row: Verified) -> dict[str, Any]:
    return {
        "file": row.name.file,
        "sha256": row.details.sha256,
        "size": row.details.size,
        "recorded": row.recorded,
        "key": row.key,
        "problem": row.problem,
    }


def _lines(done: Sequence[Verified]) -> Iterator[str]:
    for row in done:
        if row.problem:
            yield f"{row.name.file}: {row.problem}"
        elif not row.recorded:
            yield f"{row.name.file}: no sha256 is recorded; it was not pushed by buildstep"
    bad = sum(bool(row.problem) for row in done)
    yield f"{plural(len(done), 'asset')} read: {bad or 'none'} bad"
