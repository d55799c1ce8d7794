"""`buildstep heal`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from buildstep.cli.options import JSON, show, with_session

if TYPE_CHECKING:
    from buildstep.cli.session import Session


@click.command("heal")
@with_session(quiet=True, healing=False)
@click.option("--kept", is_flag=True, help="Also remove clones that were kept on failure.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed.")
@JSON
def command(session: Session, kept: bool, dry_run: bool, as_json: bool) -> int:
    """Remove what dead builds left: datasets, half-written files. Live builds are not touched."""
    from buildstep.errors import ExitCode
    from buildstep.pool import heal

    backend = session.backend
    found: list[dict[str, Any]]
    if dry_run:
        found = [{**item._asdict(), "removed": False} for item in heal.find_stale(backend)]
    else:
        done = heal.heal(backend) + (heal.drop_kept(backend) if kept else [])
        found = [item._asdict() for item in done]
        for row in found:
            if not row["problem"]:
                del row["problem"]
    lines = [f"{it['kind']} {it['name']} of build {it['build']}: {_outcome(it)}" for it in found]
    lines = lines or ["nothing was left by dead builds"]
    show({"pool": backend.uri, "left": found}, lines, as_json=as_json, done="; ".join(lines))
    failed = not dry_run and any(not item["removed"] for item in found)
    return ExitCode.DATASET if failed else ExitCode.OK


def _outcome(item: dict[str, Any]) -> str:
    return "removed" if item["removed"] else str(item.get("problem", "would be removed"))
