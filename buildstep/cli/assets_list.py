"""`buildstep assets list` and `show`: what a store of assets has."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.assets_options import HYPHENS, Work, found, with_assets
from buildstep.cli.options import JSON, show
from buildstep.system.text import plural, size_text

if TYPE_CHECKING:
    from buildstep.assets.interface import Asset


@click.command("list")
@click.argument("service", required=False, default="", shell_complete=values.SERVICES)
@HYPHENS
@with_assets
@JSON
def list_(work: Work, service: str, hyphens: bool, as_json: bool) -> None:
    """List the assets of a store, or of one SERVICE, the versions in their order.

    Files that are no assets are left out, and versions with hyphens unless they are asked for.
    """
    from buildstep.assets.names import is_version, order

    store = work.store()
    hyphens = work.hyphens(hyphens)
    assets = sorted(
        (row for row in store.list(service) if is_version(row.name.version, hyphens=hyphens)),
        key=lambda row: (row.name.service, order(row.name.version), row.name.form),
    )
    value = {"store": store.url, "assets": [_row(row) for row in assets]}
    show(value, _lines(assets), as_json=as_json)


def _row(row: Asset) -> dict[str, Any]:
    return {
        "service": row.name.service,
        "version": row.name.version,
        "file": row.name.file,
        "size": row.size,
        "modified": row.modified,
        "etag": row.etag,
    }


def _lines(assets: Iterable[Asset]) -> Iterator[str]:
    count = total = 0
    for row in assets:
        count, total = count + 1, total + row.size
        yield f"{row.name.file}  {size_text(row.size)}  {_time(row.modified)}"
    yield f"{plural(count, 'asset')} of {size_text(total)}"


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


@click.command("show")
@click.argument("service", shell_complete=values.SERVICES)
@click.argument("version", shell_complete=values.VERSIONS)
@with_assets
@JSON
def show_(work: Work, service: str, version: str, as_json: bool) -> None:
    """Show what is known of an asset: its file, size, sha256, and whether it is signed."""
    store = work.store()
    name = found(store, service, version)
    details = store.details(name)
    value = {
        "store": store.url,
        "service": name.service,
        "version": name.version,
        "file": name.file,
        "size": details.size,
        "sha256": details.sha256,
        "signature": details.signature,
    }
    lines = [
        f"file       {name.file}",
        f"size       {size_text(details.size)} ({details.size} bytes)",
        f"sha256     {details.sha256 or 'not recorded'}",
        f"signature  {details.signature or 'none'}",
    ]
    show(value, lines, as_json=as_json)
