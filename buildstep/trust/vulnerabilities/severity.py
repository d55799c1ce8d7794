"""How bad a vulnerability is: words of feeds, and base scores of CVSS 2.0, 3.0 and 3.1.

The formulas are those of the CVSS v3.1 specification, section 7.1, and of the CVSS v2 guide, section 3.2.1.
"""

from __future__ import annotations

import math
import re
from typing import Final

from buildstep.trust.vulnerabilities.model import Level

WORDS: Final[dict[str, Level]] = {
    "critical": "critical",
    "high": "high",
    "important": "high",
    "moderate": "medium",
    "medium": "medium",
    "low": "low",
    "negligible": "negligible",
    "unimportant": "negligible",
    "none": "negligible",
}
"""Words of feeds, in small letters."""


def by_word(text: object) -> Level:
    """Return the severity that a feed's word means; `unknown` for any other. Debian once put asterisks
    behind."""
    return WORDS.get(text.lower().rstrip("*"), "unknown") if isinstance(text, str) else "unknown"


def by_score(score: float) -> Level:
    """Return the rating of a base score (CVSS v3.1, section 5)."""
    for least, level in ((9.0, "critical"), (7.0, "high"), (4.0, "medium"), (0.1, "low")):
        if score >= least:
            return level  # type: ignore[return-value]
    return "negligible"


def score(vector: object) -> float | None:
    """Return the base score of a CVSS vector; None for one that is not understood, such as one of 4.0."""
    if not isinstance(vector, str) or len(vector) > 300:
        return None
    try:
        if re.match(r"CVSS:3\.[01]/", vector):
            return _version_3(_metrics(vector.partition("/")[2]))
        if vector.startswith(("AV:", "(AV:")):
            return _version_2(_metrics(vector.strip("()")))
    except (KeyError, ValueError):
        return None
    return None


def _metrics(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split("/"):
        name, _, value = part.partition(":")
        if name in found:
            raise ValueError(f"{name} twice")
        found[name] = value
    return found


def _version_3(metrics: dict[str, str]) -> float:
    changed = {"U": False, "C": True}[metrics["S"]]
    loss = {"H": 0.56, "L": 0.22, "N": 0.0}
    kept = math.prod(1 - loss[metrics[name]] for name in "CIA")
    base = 1 - kept
    impact = 7.52 * (base - 0.029) - 3.25 * (base - 0.02) ** 15 if changed else 6.42 * base
    privileges = {"N": 0.85, "L": 0.68 if changed else 0.62, "H": 0.5 if changed else 0.27}
    ease = (
        8.22
        * {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2}[metrics["AV"]]
        * {"L": 0.77, "H": 0.44}[metrics["AC"]]
        * privileges[metrics["PR"]]
        * {"N": 0.85, "R": 0.62}[metrics["UI"]]
    )
    if impact <= 0:
        return 0.0
    return _up(min((1.08 if changed else 1.0) * (impact + ease), 10))


def _up(value: float) -> float:
    """Round up to one decimal, as appendix A does it: not fooled by how floating point numbers are kept."""
    whole = round(value * 100_000)
    return whole / 100_000 if whole % 10_000 == 0 else (whole // 10_000 + 1) / 10


def _version_2(metrics: dict[str, str]) -> float:
    loss = {"N": 0.0, "P": 0.275, "C": 0.66}
    impact = 10.41 * (1 - math.prod(1 - loss[metrics[name]] for name in "CIA"))
    ease = (
        20
        * {"L": 0.395, "A": 0.646, "N": 1.0}[metrics["AV"]]
        * {"H": 0.35, "M": 0.61, "L": 0.71}[metrics["AC"]]
        * {"M": 0.45, "S": 0.56, "N": 0.704}[metrics["Au"]]
    )
    return round((0.6 * impact + 0.4 * ease - 1.5) * (1.176 if impact else 0), 1)
