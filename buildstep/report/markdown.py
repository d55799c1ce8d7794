"""A summary for a job page (GitHub's step summary, a merge request's comment) in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import IO

from buildstep.report.event_log import step_tail
from buildstep.report.interface import Report
from buildstep.report.proofs import proofs
from buildstep.report.record import BuildRecord, critical_path
from buildstep.report.rendering import environment
from buildstep.report.words import delta, outcome, safe_url
from buildstep.system.text import plural

_MARKS = {"run": "✅", "reuse": "♻️", "skip": "\N{WHITE CIRCLE}", "failed": "❌"}
_MOST = 50
"""Rows of a list: job pages cut long summaries off, and this one should be read."""


def render(records: Sequence[BuildRecord], out: IO[bytes]) -> None:
    """Write the summary of the latest build, and the trend when there are several."""
    record = records[-1]
    templates = environment()
    templates.filters.update(md=_text, code=_code, link=_link, fenced=_fenced)
    page = templates.get_template("report.md.j2").render(
        record=record,
        records=records,
        outcome=outcome(record),
        facts=list(_facts(record, records[-2] if len(records) > 1 else None)),
        tail=_tail(record),
        longest=max(critical_path(record.steps), key=lambda step: step.seconds, default=None),
        wrong=[row for row in record.checks if row.result != "passed"],
        proofs=proofs(record),
        removed=[row for row in record.cleaned if row.paths],
        marks=_MARKS,
        mark=lambda ok: _MARKS["run" if ok else "failed"],
        most=_MOST,
    )
    out.write(page.removesuffix("\n").encode(errors="replace"))


def _facts(record: BuildRecord, before: BuildRecord | None) -> Iterator[str]:
    if record.base:
        yield f"on **{_text(record.base)}**"
    if record.packages:
        yield plural(len(record.packages), "package")
    if record.reused:
        yield f"{len(record.reused)} of {plural(len(record.steps), 'step')} reused"
    if record.shared:
        yield record.shared
    if files := proofs(record).files:
        yield f"{plural(len(files), 'file')} beside it to prove it"
    if before is not None:
        for name, now, then in (
            ("size", record.size, before.size),
            ("time", record.seconds, before.seconds),
        ):
            if change := delta(now, then):
                yield f"{name} {change}"
    yield f"build {_code(record.build_id)}"


def _tail(record: BuildRecord) -> list[str]:
    """Return the last lines of the failed step's output, or else of the error."""
    failed = next((step.name for step in record.steps if step.state == "failed"), "")
    return step_tail(record.events, failed, 20) or (
        record.error.detail.splitlines()[-20:] if record.error else []
    )


# -- filters ------------------------------------------------------------------------------------------------


def _fenced(lines: Sequence[str]) -> str:
    """Return a code block; its fence is longer than any run of backquotes inside."""
    ticks = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, ticks + 1)
    clean = ("".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line) for line in lines)
    return "\n".join([fence, *clean, fence])


def _text(text: str) -> str:
    """Return text as it is: no markup of its own, and no line end to break a table."""
    text = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", " ".join(text.split()))
    # An @ begins a mention of somebody who has nothing to do with this build.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")


def _code(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    if not text:
        return ""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _link(url: str) -> str:
    good = safe_url(url) and re.fullmatch(r"[^\s<>|()]+", url)
    return f"[link]({url})" if good else _text(url)


REPORT = Report(".md", render)
