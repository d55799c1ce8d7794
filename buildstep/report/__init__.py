"""Reports: views of build records and their event logs, one file a format, one row of the table each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from buildstep.errors import UsageError
from buildstep.system.registry import Registry, importing

if TYPE_CHECKING:
    from buildstep.report.interface import Report

REPORTS: Registry[Report] = Registry(
    "reports",
    "report format",
    {
        "html": importing("buildstep.report.html:REPORT"),
        "junit": importing("buildstep.report.junit:REPORT"),
        "sarif": importing("buildstep.report.sarif:REPORT"),
        "warnings-ng": importing("buildstep.report.warnings_ng:REPORT"),
        "markdown": importing("buildstep.report.markdown:REPORT"),
        "badge": importing("buildstep.report.badge:REPORT"),
    },
)


def format_of(output: Path) -> str:
    """Return the format that a file gets by its ending, html if no format has that ending."""
    ending = output.suffix.lower()
    return next((name for name, report in REPORTS.items() if report.ending == ending), "html")


def render(
    format_name: str,
    records: Sequence[Path],
    events_paths: Sequence[Path | None] | None,
    out: IO[bytes],
) -> None:
    """Write a report of these build records to a binary stream.

    events_paths: the event log of each record; None looks for them beside the records. Several records
    make a trend, whatever order they are given in. Raises UsageError for an unknown format and for a file
    that is no record.
    """
    from buildstep.report.parse import load

    report = REPORTS.find(format_name)
    if report is None:
        raise UsageError(f"there is no report format {format_name}", hint=REPORTS.hint(format_name))
    if not records:
        raise UsageError("a report needs at least one build record")
    loaded = [load(path) for path in records]
    if events_paths is not None:
        loaded = [replace(record, events=log) for record, log in zip(loaded, events_paths, strict=True)]
    report.render(sorted(loaded, key=lambda record: (record.started, record.build_id)), out)
