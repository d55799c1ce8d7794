"""Reports: views of build records and their event logs, one file a format, gathered in a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from buildstep.errors import UsageError
from buildstep.report.parse import find_events, load
from buildstep.report.record import BuildRecord
from buildstep.system.registry import Registry, importing

Renderer = Callable[[Sequence[BuildRecord], Sequence[Path | None], IO[bytes]], None]
"""Writes a report of builds, oldest first, each with its event log if there is one."""

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
    logs = [find_events(path) for path in records] if events_paths is None else list(events_paths)
    assert len(logs) == len(records), "an event log, or None, for each record"
    loaded = [(load(path), log) for path, log in zip(records, logs, strict=True)]
    loaded.sort(key=lambda pair: (pair[0].started, pair[0].build_id))
    renderer([record for record, _ in loaded], [log for _, log in loaded], out)
