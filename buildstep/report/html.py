"""One page with everything about a build, for a browser with no network; the log packed inside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import IO, Any

from buildstep.report import log_pack
from buildstep.report.interface import Report
from buildstep.report.proofs import proofs
from buildstep.report.record import BuildRecord, critical_path
from buildstep.report.rendering import asset, environment, policy
from buildstep.report.timeline import ticks
from buildstep.report.words import outcome

_SCRIPTS = ("page.js", "charts.js", "log.js")


def render(records: Sequence[BuildRecord], out: IO[bytes]) -> None:
    """Write the page of the latest build, with the trend of all of them."""
    from markupsafe import Markup

    css, script = asset("report.css"), "".join(asset(name) for name in _SCRIPTS)
    record, before = records[-1], records[-2] if len(records) > 1 else None
    # Whatever a tool printed or a package is called may be hostile: jinja2 escapes all of it.
    template = environment().get_template("report.html.j2")
    pieces = template.generate(
        css=Markup(css),  # noqa: S704 - ours, and a style element is not parsed for markup
        script=Markup(script),  # noqa: S704
        csp=policy(css, script),
        record=record,
        records=records,
        before=before,
        outcome=outcome(record),
        timeline=_timeline(record),
        critical=critical_path(record.steps),
        changes=_package_changes(record, before),
        data=_data(records),
        proofs=proofs(record),
        # The log may be far larger than the page: the template calls this where the log belongs.
        pack_log=lambda: asdict(log_pack.pack(record.events, out) if record.events else log_pack.Index()),
    )
    for piece in pieces:
        out.write(piece.encode(errors="replace"))


# -- what the template is given ---------------------------------------------------------------------------


def _timeline(record: BuildRecord) -> dict[str, Any]:
    """Return where each step's bar is, in per cent of the build's time, and the marks of the axis."""
    critical = {id(step) for step in critical_path(record.steps)}
    begin = min((step.started for step in record.steps if step.started), default=0.0)
    total = max([record.seconds, *(step.ended - begin for step in record.steps), 1e-6])
    rows, clock = [], begin
    for step in record.steps:
        start = step.started or clock
        clock = max(clock, start + step.seconds)
        left = min(100.0, max(0.0, (start - begin) / total * 100))
        rows.append(
            {
                "step": step,
                "left": round(left, 3),
                "width": round(min(100.0 - left, step.seconds / total * 100), 3),
                "critical": id(step) in critical,
                "share": f"{step.seconds / total * 100:.0f} %" if step.seconds / total >= 0.005 else "",
            }
        )
    return {"rows": rows, "ticks": ticks(total)}


def _package_changes(record: BuildRecord, before: BuildRecord | None) -> list[dict[str, str]]:
    """Return the packages that differ from the build before this one."""
    if before is None or not before.packages or not record.packages:
        return []
    old = {(row.name, row.arch): row.version for row in before.packages}
    new = {(row.name, row.arch): row.version for row in record.packages}
    rows = []
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name, ""), new.get(name, "")
        if was != now:
            word = "added" if not was else "removed" if not now else "changed"
            rows.append({"name": name[0], "was": was, "now": now, "word": word})
    return rows


def _data(records: Sequence[BuildRecord]) -> dict[str, Any]:
    """Return what the page's charts are drawn from."""
    return {
        "ok": records[-1].ok,
        "name": f"{records[-1].name}-{records[-1].version}",
        "files": records[-1].files_added,
        "trend": [
            {
                "version": row.version,
                "build": row.build_id,
                "started": row.started.timestamp(),
                "size": row.size or None,
                "seconds": row.seconds,
                "ok": row.ok,
            }
            for row in records
        ]
        if len(records) > 1
        else [],
    }


REPORT = Report(".html", render)
