"""Reports: views of build records and their event logs, one file a format, gathered in a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from buildstep.errors import UsageError
from buildstep.report import badge, html, junit, markdown, sarif, warnings_ng
from buildstep.report.parse import find_events, load
from buildstep.report.record import BuildRecord

Renderer = Callable[[Sequence[BuildRecord], Sequence[Path | None], IO[bytes]], None]
"""Writes a report of builds, oldest first, each with its event log if there is one."""

REPORTS: dict[str, Renderer] = {
    "html": html.render,
    "junit": junit.render,
    "sarif": sarif.render,
    "warnings-ng": warnings_ng.render,
    "markdown": markdown.render,
    "badge": badge.render,
}


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
    if format_name not in REPORTS:
        raise UsageError(f"there is no report format {format_name}", hint=f"one of {', '.join(REPORTS)}")
    if not records:
        raise UsageError("a report needs at least one build record")
    logs = [find_events(path) for path in records] if events_paths is None else list(events_paths)
    assert len(logs) == len(records), "an event log, or None, for each record"
    loaded = [(load(path), log) for path, log in zip(records, logs, strict=True)]
    loaded.sort(key=lambda pair: (pair[0].started, pair[0].build_id))
    REPORTS[format_name]([record for record, _ in loaded], [log for _, log in loaded], out)
