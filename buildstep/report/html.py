"""One page with everything about a build, for a browser with no network; the log packed inside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import IO, Any

from buildstep.report import log_pack
from buildstep.report.interface import Report
from buildstep.report.record import BuildRecord, critical_path
from buildstep.report.rendering import asset, environment
from buildstep.report.words import delta, outcome, seconds_text
from buildstep.system.text import plural, size_text

_SCRIPTS = ("page.js", "charts.js", "log.js")


def render(records: Sequence[BuildRecord], out: IO[bytes]) -> None:
    """Write the page of the latest build, with the trend of all of them."""
    from markupsafe import Markup

    css, script = asset("report.css"), "".join(asset(name) for name in _SCRIPTS)
    events = records[-1].events
    # Whatever a tool printed or a package is called may be hostile: jinja2 escapes all of it.
    pieces = (
        environment()
        .get_template("report.html.j2")
        .generate(
            css=Markup(css),  # noqa: S704 - ours, and a style element is not parsed for markup
            script=Markup(script),  # noqa: S704
            csp=_policy(css, script),
            data=_data(records),
            has_log=events is not None,
            # The log may be far larger than the page: the template calls this where the log belongs.
            pack_log=lambda: asdict(log_pack.pack(events, out) if events else log_pack.Index()),
            **_context(records),
        )
    )
    for piece in pieces:
        out.write(piece.encode(errors="replace"))


def _policy(css: str, script: str) -> str:
    """What the page may do: run its own script, use its own style, and talk to nobody."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src-elem '{_hash(css)}'; "
        "style-src-attr 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# -- what the template is given ---------------------------------------------------------------------------


def _context(records: Sequence[BuildRecord]) -> dict[str, Any]:
    record = records[-1]
    before = records[-2] if len(records) > 1 else None
    path = critical_path(record.steps)
    return {
        "record": record,
        "records": records,
        "outcome": outcome(record),
        "tiles": _tiles(record, before),
        "timeline": _timeline(record),
        "critical": path,
        "critical_seconds": sum(step.seconds for step in path),
        "longest": max(path, key=lambda step: step.seconds, default=None),
        "reused": record.reused,
        "again": [step for step in record.steps if step.state in ("run", "failed")],
        "skipped": [step for step in record.steps if step.state == "skip"],
        "changes": _package_changes(record, before),
        "removed": [row for row in record.cleaned if row.paths],
        "largest_layer": max((layer.size for layer in record.layers), default=0),
        "facts": _facts(record),
    }


def _tiles(record: BuildRecord, before: BuildRecord | None) -> list[dict[str, str]]:
    """The numbers to see first. With an earlier build, how far they moved; more is marked, not judged."""
    tiles: list[dict[str, str]] = []

    def add(label: str, value: str, note: str = "", change: str = "") -> None:
        tiles.append({"label": label, "value": value, "note": note, "change": change})

    if record.artifacts:
        first = record.artifacts[0]
        change = delta(record.size, before.size) if before else ""
        more = f" and {len(record.artifacts) - 1} more" if len(record.artifacts) > 1 else ""
        add("Image size", size_text(record.size), f"{first.format}, {first.compression}{more}", change)
    change = delta(record.seconds, before.seconds) if before else ""
    add("Time", seconds_text(record.seconds), plural(len(record.steps), "step"), change)
    if record.steps:
        add("Reused", f"{len(record.reused)} of {len(record.steps)}", "steps found in the cache")
    if record.packages:
        findings = "" if record.audit is None else f"{plural(len(record.findings), 'audit finding')}"
        add("Packages", f"{len(record.packages):,}", findings or "in the image")
    if record.files_added:
        add("Largest file", size_text(record.files_added[0][1]), record.files_added[0][0].rpartition("/")[2])
    cleaned = sum(row.bytes for row in record.cleaned)
    if cleaned:
        add("Cleaned", size_text(cleaned), plural(sum(row.paths for row in record.cleaned), "path"))
    return tiles


def _timeline(record: BuildRecord) -> dict[str, Any]:
    """Where each step's bar stands, in per cent of the build's time."""
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
    return {"rows": rows, "ticks": _ticks(total)}


def _ticks(total: float) -> list[dict[str, Any]]:
    """Four or so round times along the axis."""
    scale = 10.0 ** (len(f"{total * 1000:.0f}") - 4)
    unit = next(
        (scale * step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10) if total / (scale * step) <= 5), scale * 10
    )
    if total > 120:
        unit = next((step for step in (30, 60, 120, 300, 600, 1800, 3600) if total / step <= 5), 7200)
    count = int(total / unit * 1.0001)
    ticks = ((index * unit, index * unit / total * 100) for index in range(count + 1))
    return [{"left": round(left, 3), "text": _tick(at)} for at, left in ticks if left < 96]


def _tick(seconds: float) -> str:
    if not seconds:
        return "0"
    return (
        f"{seconds / 60:g} min"
        if seconds >= 60
        else f"{seconds:.3g} s"
        if seconds >= 1
        else f"{seconds * 1000:.3g} ms"
    )


def _package_changes(record: BuildRecord, before: BuildRecord | None) -> list[dict[str, str]]:
    """Packages that differ from the build before this one."""
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


def _facts(record: BuildRecord) -> list[tuple[str, str, bool]]:
    """What went in: a name, a value, and whether it is worth a copy button."""
    image, proto = record.input("image"), record.input("proto")
    rows = [
        ("base image", record.base, False),
        ("base uuid", str(image.get("uuid") or ""), True),
        ("base tree digest", str(image.get("tree_digest") or ""), True),
        ("proto directory", str(proto.get("path") or ""), False),
        ("proto files", _proto(proto), False),
        ("manifest", record.source if record.inputs.get("spec") else "", False),
        ("pool", str(record.inputs.get("pool") or ""), False),
        ("image uuid", record.uuid, True),
        ("tree digest", record.tree_digest, True),
        ("build", record.build_id, True),
    ]
    rows += [(name, version, False) for name, version in record.tools.items()]
    return [row for row in rows if row[1]]


def _proto(proto: Mapping[str, Any]) -> str:
    files, size = proto.get("files"), proto.get("bytes")
    if not isinstance(files, int):
        return ""
    return plural(files, "file") + (f", {size_text(size)}" if isinstance(size, int) else "")


def _data(records: Sequence[BuildRecord]) -> dict[str, Any]:
    """What the page's charts are drawn from."""
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
