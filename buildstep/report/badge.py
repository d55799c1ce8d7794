"""An SVG badge: name, version, size and time of the last build."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO
from xml.sax.saxutils import escape, quoteattr

from buildstep.report.record import BuildRecord
from buildstep.report.words import outcome

_NARROW, _WIDE = frozenset("ijltfrI.,:;'|!()[] -"), frozenset("mwMWGOQ@%")

# Both keep a contrast of 4.5 with white text.
_GOOD, _BAD = "#1a7f37", "#c9252d"


def render(records: Sequence[BuildRecord], _events: Sequence[Path | None], out: IO[bytes]) -> None:
    """Write the badge of the latest build."""
    record = records[-1]
    label, value = record.name, f"{record.version} · {outcome(record)}"
    left, right = _width(label) + 14, _width(value) + 14
    title = f"{label}: {value}"
    texts = "".join(
        f'<text x="{x:.1f}" y="14" textLength="{_width(text)}" lengthAdjust="spacingAndGlyphs">'
        f"{escape(text)}</text>"
        for text, x in ((label, left / 2), (value, left + right / 2))
    )
    out.write(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f"aria-label={quoteattr(title)}><title>{escape(title)}</title>"
        f'<clipPath id="r"><rect width="{left + right}" height="20" rx="4"/></clipPath>'
        f'<g clip-path="url(#r)"><rect width="{left}" height="20" fill="#454c56"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{_GOOD if record.ok else _BAD}"/></g>'
        f'<g fill="#fff" text-anchor="middle" font-size="11" '
        f'font-family="Verdana,DejaVu Sans,Geneva,sans-serif">{texts}</g></svg>\n'.encode()
    )


def _width(text: str) -> int:
    """About how wide a text is at 11 px in Verdana; textLength makes the browser keep to it."""
    return round(sum(4.3 if c in _NARROW else 10.2 if c in _WIDE else 7.1 for c in text))
