"""Reports: views of build records and their event logs, one file a format, gathered in a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from buildstep.errors import UsageError
from buildstep.report.parse import load
from buildstep.report.record import BuildRecord
from buildstep.system.registry import Registry, importing

Renderer = Callable[[Sequence[BuildRecord], IO[bytes]], None]
"""Writes a report of builds, oldest first."""

REPORTS: Registry[Renderer] = Registry(
    "reports",
    "report format",
    {
        "html": importing("buildstep.report.html:render"),
        "junit": importing("buildstep.report.junit:render"),
        "sarif": importing("buildstep.report.sarif:render"),
        "warnings-ng": importing("buildstep.report.warnings_ng:render"),
        "markdown": importing("buildstep.report.markdown:render"),
        "badge": importing("buildstep.report.badge:render"),
    },
)


def render(
    format_name: str,
    records: Sequence[Path],
    events_paths: Sequence[Path | None] | None,
    out: IO[bytes],
) -> None:
    """Write a report of these build records to a binary stream.

    events_paths: the event log of each record; None looks for them beside the records. Several records
    make a trend, whatever order they are given in.
    """
    renderer = REPORTS.find(format_name)
    if renderer is None:
        raise UsageError(f"there is no report format {format_name}", hint=REPORTS.hint(format_name))
    if not records:
        raise UsageError("a report needs at least one build record")
    loaded = [load(path) for path in records]
    if events_paths is not None:
        loaded = [replace(record, events=log) for record, log in zip(loaded, events_paths, strict=True)]
    renderer(sorted(loaded, key=lambda record: (record.started, record.build_id)), out)
