"""An SVG badge: name, version, size and time of the last build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

from buildstep.report.interface import Report
from buildstep.report.record import BuildRecord
from buildstep.report.rendering import environment
from buildstep.report.words import outcome

_NARROW, _WIDE = frozenset("ijltfrI.,:;'|!()[] -"), frozenset("mwMWGOQ@%")

# Both keep a contrast of 4.5 with white text.
_GOOD, _BAD = "#1a7f37", "#c9252d"


def render(records: Sequence[BuildRecord], out: IO[bytes]) -> None:
    """Write the badge of the latest build."""
    record = records[-1]
    label, value = record.name, f"{record.version} · {outcome(record)}"
    left, right = _width(label) + 14, _width(value) + 14
    template = environment().get_template("badge.svg.j2")
    page = template.render(
        title=f"{label}: {value}",
        left=left,
        width=left + right,
        colour=_GOOD if record.ok else _BAD,
        texts=[
            {"text": label, "x": left / 2, "width": _width(label)},
            {"text": value, "x": left + right / 2, "width": _width(value)},
        ],
    )
    out.write(page.encode(errors="replace") + b"\n")


def _width(text: str) -> int:
    """Return about how wide a text is at 11 px in Verdana; textLength makes the browser keep to it."""
    return round(sum(4.3 if c in _NARROW else 10.2 if c in _WIDE else 7.1 for c in text))


REPORT = Report(".svg", render)
