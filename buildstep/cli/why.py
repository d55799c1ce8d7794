"""`buildstep why`."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("why", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("records", nargs=-1, required=True, metavar="RECORD [RECORD]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(records: tuple[str, ...], as_json: bool) -> int:
    """Tell what a build reused, what not, and why; with two build records, what differs between them."""
    from buildstep.report import compare, parse

    if len(records) > 2:
        raise click.UsageError("one build record, or two to compare")
    loaded = [parse.load(Path(path)) for path in records]
    rows = compare.explain(loaded[0]) if len(loaded) == 1 else compare.differences(*loaded)
    click.echo(json.dumps({"why": rows}, indent=2) if as_json else "\n".join(rows))
    return 0
