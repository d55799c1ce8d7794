"""`buildstep schema`."""

from __future__ import annotations

import json

import click


@click.command("schema", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> int:
    """Print the JSON schema of m.json, for editors and linters."""
    from buildstep.cli.build import choices
    from buildstep.spec import load

    click.echo(json.dumps(load.json_schema(choices()), indent=2))
    return 0
