"""`buildstep heal`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click


@click.command("heal", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--pool", metavar="URI", help="The pool to heal (default: the one that builds use).")
@click.option("--kept", is_flag=True, help="Also remove clones that were kept on failure.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(pool: str | None, kept: bool, dry_run: bool, as_json: bool) -> int:
    """Remove what dead builds left: datasets, half-written files. Live builds are not touched."""
    from buildstep import pool as pool_module
    from buildstep.cli.session import enclosed
    from buildstep.errors import ExitCode
    from buildstep.pool import heal
    from buildstep.spec import config

    def job() -> int:
        environ = dict(os.environ)
        chosen = config.load(environ, Path.cwd(), pool=pool).pool
        backend = pool_module.open_pool(chosen or pool_module.detect(environ))
        if dry_run:
            found = [
                {"build": b, "kind": k, "name": n, "removed": False} for b, k, n in heal.leftovers(backend)
            ]
        else:
            done = heal.heal(backend) + (heal.drop_kept(backend) if kept else [])
            found = [
                {
                    "build": left.build,
                    "kind": left.kind,
                    "name": left.name,
                    "removed": left.removed,
                    **({"problem": left.problem} if left.problem else {}),
                }
                for left in done
            ]
        if as_json:
            click.echo(json.dumps({"pool": backend.uri, "left": found}, indent=2))
        elif not found:
            click.echo("nothing was left by dead builds")
        else:
            for item in found:
                word = "removed" if item["removed"] else item.get("problem", "would be removed")
                click.echo(f"{item['kind']} {item['name']} of build {item['build']}: {word}")
        failed = not dry_run and any(not item["removed"] for item in found)
        return ExitCode.DATASET if failed else ExitCode.OK

    return enclosed(job)
