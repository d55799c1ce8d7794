"""Numbers and outcomes put into words, the same ones in every report."""

from __future__ import annotations

from buildstep.report.record import BuildRecord, Layer
from buildstep.system.text import plural, size_text

_COMMAND = 120
"""Characters of a command that are shown where it is one of several things."""

STATES = {"run": "ran", "reuse": "reused", "skip": "skipped", "failed": "failed"}


def seconds_text(seconds: float) -> str:
    """Return a length of time for a person: 7 ms, 3.2 s, 4 min 05 s, 1 h 02 min."""
    if seconds < 0.0005:
        return "0 s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {round(seconds) % 60:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def safe_url(url: str) -> str:
    """Return a link that an audit named if it is one to the web; empty for `javascript:` and the like."""
    return url if url.lower().startswith(("https://", "http://")) else ""


def outcome(record: BuildRecord) -> str:
    """Say in a few words how the build ended."""
    if not record.ok:
        return f"failed after {seconds_text(record.seconds)}"
    took = seconds_text(record.seconds)
    return f"{size_text(record.size)} in {took}" if record.artifacts else f"built in {took}"


def delta(now: float, before: float) -> str:
    """Return a change in per cent with its sign; empty if there is nothing to compare with."""
    if before <= 0 or now <= 0:
        return ""
    change = (now - before) / before * 100
    if abs(change) < 0.05:
        return "±0 %"
    return f"{change:+.1f} %".replace("-", "\N{MINUS SIGN}")


def title(layer: Layer) -> str:
    """Say what a layer is: of a base's also what its history says that it was made by."""
    if layer.base and layer.comment and layer.created_by:
        return f"{layer.comment} ({_brief(layer.created_by)})"
    return layer.comment or _brief(layer.created_by) or "layer"


def _brief(text: str) -> str:
    """Return a command as one line, which may have been a script."""
    text = " ".join(text.split())
    return text if len(text) <= _COMMAND else f"{text[:_COMMAND]}..."


def brings(layer: Layer) -> str:
    """Say what a layer brings; empty where that was not counted."""
    if layer.files is None:
        return ""
    found = [f"{plural(layer.files, 'file')} of {size_text(layer.bytes or 0)}"] if layer.files else []
    found += [plural(len(layer.packages), "package")] if layer.packages else []
    found += [f"{layer.removed} removed"] if layer.removed else []
    return ", ".join(found) or "no files"
