"""`buildstep schema`."""

from __future__ import annotations

import click

from buildstep.cli.options import print_json


@click.command("schema")
def command() -> int:
    """Print the JSON schema of m.json, for editors and linters."""
    from buildstep.cli.build import choices
    from buildstep.spec.json_schema import json_schema

    print_json(json_schema(choices()))
    return 0
