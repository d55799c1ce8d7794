"""`buildstep schema`."""

from __future__ import annotations

import click

from buildstep.cli import values
from buildstep.cli.options import PROFILES, echo, pairs, print_json, read_stdin


@click.command("schema")
@click.argument("manifest", required=False, shell_complete=values.FILES)
@click.option(
    "--resolved",
    is_flag=True,
    help="Print MANIFEST (default: the one that is here) with its includes and profiles put together.",
)
@click.option("--origins", is_flag=True, help="Print which file each value of it came from, a line each.")
@click.option(
    "-D", "defines", multiple=True, callback=pairs, metavar="KEY=VALUE", help="A value for templates."
)
@PROFILES
def command(
    manifest: str | None, resolved: bool, origins: bool, defines: dict[str, str], profiles: tuple[str, ...]
) -> int:
    """Print the JSON schema of m.json, for editors and linters; or an m.json as a build reads it."""
    from buildstep.cli.build import read_here
    from buildstep.cli.choices import choices
    from buildstep.errors import SpecError
    from buildstep.spec.json_schema import json_schema
    from buildstep.spec.load import check_document

    if not (resolved or origins):
        if manifest or defines or profiles:
            raise click.UsageError("an m.json is read with --resolved or --origins only")
        print_json(json_schema(choices()))
        return 0
    text = read_stdin() if manifest == "-" else ""
    document = read_here(manifest, defines, text, profiles=profiles)
    faults = [*document.faults, *check_document(document.value, choices(plugins=True))]
    if faults:
        raise SpecError(document.source, document.placed(faults))
    if origins:
        found = {} if document.composed is None else document.composed.origins
        width = max(map(len, found), default=0)
        for where, file in found.items() or {"$": document.source}.items():
            echo(f"{where:{width}}  {file}")
    else:
        print_json(document.value)
    return 0
