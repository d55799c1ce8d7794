"""`buildstep why`."""

from __future__ import annotations

from pathlib import Path

import click

from buildstep.cli import values
from buildstep.cli.options import JSON, show


@click.command("why")
@click.argument("records", nargs=-1, required=True, metavar="RECORD [RECORD]", shell_complete=values.FILES)
@JSON
def command(records: tuple[str, ...], as_json: bool) -> int:
    """Show what a build reused, what not, and why; with two build records, what differs between them.

    With --json: `rows`, each with its kind, the fields of that kind, and the sentence as `text`.
    """
    from buildstep.report import compare, parse

    if len(records) > 2:
        raise click.UsageError("one build record, or two to compare")
    loaded = [parse.load(Path(path)) for path in records]
    rows = compare.explain(loaded[0]) if len(loaded) == 1 else compare.differences(*loaded)
    lines = [row.text for row in rows]
    show({"why": lines, "rows": [row.to_json() for row in rows]}, lines, as_json=as_json)
    return 0
