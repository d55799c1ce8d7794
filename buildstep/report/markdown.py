"""A summary for a job page (GitHub's step summary, a merge request's comment) in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from buildstep.report.event_log import step_tail
from buildstep.report.record import BuildRecord, critical_path
from buildstep.report.words import STATES, delta, outcome, seconds_text
from buildstep.system.text import plural, size_text

_MARKS = {"run": "✅", "reuse": "♻️", "skip": "\N{WHITE CIRCLE}", "failed": "❌"}
_MOST = 50
"""Rows of a list: job pages cut long summaries off, and this one should be read."""


def render(records: Sequence[BuildRecord], events: Sequence[Path | None], out: IO[bytes]) -> None:
    """Write the summary of the latest build, and the trend when there are several."""
    record = records[-1]
    before = records[-2] if len(records) > 1 else None
    lines: list[str] = []
    for part in (
        _head(record, before),
        _error(record, events[-1]),
        _artifacts(record),
        _problems(record),
        _steps(record),
        _contents(record),
        _trend(records),
    ):
        block = list(part)
        if block:
            lines += [*block, ""]
    out.write("\n".join(lines).encode(errors="replace"))


def _head(record: BuildRecord, before: BuildRecord | None) -> Iterator[str]:
    yield f"## {'✅' if record.ok else '❌'} {_text(record.title)}: {outcome(record)}"
    yield ""
    facts = [f"on **{_text(record.base)}**"] if record.base else []
    if record.packages:
        facts.append(plural(len(record.packages), "package"))
    reused = sum(step.state == "reuse" for step in record.steps)
    if reused:
        facts.append(f"{reused} of {plural(len(record.steps), 'step')} reused")
    if before is not None:
        size, time = delta(record.size, before.size), delta(record.seconds, before.seconds)
        facts += [f"size {size}"] if size else []
        facts += [f"time {time}"] if time else []
    facts.append(f"build {_code(record.build_id)}")
    yield " · ".join(facts)


def _error(record: BuildRecord, log: Path | None) -> Iterator[str]:
    if record.ok:
        return
    if record.error is not None:
        yield f"> **{_text(record.error.message)}**"
        if record.error.hint:
            yield f"> hint: {_text(record.error.hint)}"
    failed = next((step.name for step in record.steps if step.state == "failed"), "")
    tail = step_tail(log, failed, 20) or (record.error.detail.splitlines()[-20:] if record.error else [])
    if tail:
        yield ""
        yield from _fenced(tail)


def _artifacts(record: BuildRecord) -> Iterator[str]:
    if record.artifacts:
        yield from _table(
            ("artifact", "format", "size", "sha256"),
            (
                (_code(row.name), _text(row.format), size_text(row.size), _code(row.sha256))
                for row in record.artifacts
            ),
            right=(2,),
        )


def _problems(record: BuildRecord) -> Iterator[str]:
    for note in record.problems[:_MOST]:
        yield f"- {'❌' if note.level == 'error' else '⚠️'} {_text(note.text)}"
    if record.findings:
        yield f"\n**Audit: {plural(len(record.findings), 'finding')}**\n"
        rows = (
            (_code(row.package), _text(row.version), _text(row.severity), _text(row.problem), _link(row.url))
            for row in record.findings[:_MOST]
        )
        yield from _table(("package", "version", "severity", "problem", "more"), rows)
        if len(record.findings) > _MOST:
            yield f"\n… and {len(record.findings) - _MOST} more"


def _steps(record: BuildRecord) -> Iterator[str]:
    if not record.steps:
        return
    slow = max(critical_path(record.steps), key=lambda step: step.seconds, default=None)
    rows = (
        (
            f"{_MARKS[step.state]} **{_text(step.name)}**"
            if step is slow
            else f"{_MARKS[step.state]} {step.name}",
            STATES[step.state],
            seconds_text(step.seconds),
            _text(step.reason),
        )
        for step in record.steps
    )
    yield from _folded("Steps", _table(("step", "", "time", "why"), rows, right=(2,)))


def _contents(record: BuildRecord) -> Iterator[str]:
    removed = [row for row in record.cleaned if row.paths]
    if removed:
        total = sum(row.bytes for row in removed)
        rows = ((_text(row.cleaner), f"{row.paths:,}", size_text(row.bytes)) for row in removed)
        table = _table(("cleaner", "paths", "bytes"), rows, right=(1, 2))
        yield from _folded(f"Cleaned: {size_text(total)}", table)
    if record.files_added:
        files = ((_code(path), size_text(size)) for path, size in record.files_added[:15])
        yield from _folded("Largest files added", _table(("file", "size"), files, right=(1,)))


def _trend(records: Sequence[BuildRecord]) -> Iterator[str]:
    if len(records) < 2:
        return
    rows = (
        (
            row.started.strftime("%Y-%m-%d %H:%M"),
            f"{'✅' if row.ok else '❌'} {_text(row.version)}",
            size_text(row.size) if row.artifacts else "",
            seconds_text(row.seconds),
            str(sum(step.state == "reuse" for step in row.steps)),
        )
        for row in records[-_MOST:]
    )
    table = _table(("build (UTC)", "version", "size", "time", "reused"), rows, right=(2, 3, 4))
    yield from _folded("Trend", table)


# -- Markdown ---------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---:' if column in right else '---' for column in range(len(head)))}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _folded(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"<details><summary>{_text(title)}</summary>"
    yield ""
    yield from lines
    yield ""
    yield "</details>"
    yield ""


def _fenced(lines: Sequence[str]) -> Iterator[str]:
    ticks = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, ticks + 1)
    yield fence
    yield from ("".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line) for line in lines)
    yield fence


def _text(text: str) -> str:
    """Text as it is: no markup of its own, and no line end to break a table."""
    text = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", " ".join(text.split()))
    # An @ begins a mention of somebody who has nothing to do with this build.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")


def _code(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    if not text:
        return ""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _link(url: str) -> str:
    good = re.fullmatch(r"https?://[^\s<>|()]+", url)
    return f"[link]({url})" if good else _text(url)
