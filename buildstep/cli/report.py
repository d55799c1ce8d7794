"""`buildstep report`: render build records for a person, a CI or a code scanner."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from buildstep.report import REPORTS


@click.command("report")
@click.argument(
    "records", metavar="RECORD...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True)
)
@click.option(
    "-f",
    "--format",
    "format_name",
    metavar=f"[{'|'.join(REPORTS)}]",
    shell_complete=lambda _context, _param, begun: [name for name in REPORTS if name.startswith(begun)],
    help="Default: by the ending of FILE, else html.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), default=Path("-"),
    metavar="FILE", show_default="standard output", help="Where to write; appears only when it is complete.",
)  # fmt: skip
@click.option(
    "--events", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="The build's event log, where it is not beside the (one) record.",
)  # fmt: skip
def command(records: tuple[Path, ...], format_name: str | None, output: Path, events: Path | None) -> None:
    """Render build records: *.buildrecord.json files, or directories that hold them.

    Several records make a trend of size and time. For a build that failed before it had a record, give
    its *.events.jsonl.
    """
    from buildstep import report
    from buildstep.errors import UsageError
    from buildstep.report.parse import find_records
    from buildstep.system import files, standard_streams
    from buildstep.system.space import locating

    chosen = format_name or report.format_of(output)
    found = find_records(records)
    if events is not None and len(found) != 1:
        raise UsageError(
            "--events belongs to one record", hint="leave it out: logs are found beside the records"
        )
    logs = None if events is None else [events]
    if str(output) != "-":
        with files.named_output(output) as stream:
            report.render(chosen, found, logs, stream)
        return
    if chosen == "html" and sys.stdout.isatty():
        raise UsageError("an HTML page on a terminal is of no use", hint="write it to a file: -o report.html")
    out = sys.stdout.buffer
    with locating(standard_streams.STDOUT):
        report.render(chosen, found, logs, out)
        out.flush()
