"""What `build.checks` and `build.allow` may say: the checks of a finished image, as rules for JSON values."""

from __future__ import annotations

from typing import Final, Literal

from buildstep.spec.schema import Rule, array, choice, mapping, record, text

Severity = Literal["fail", "warn", "off"]

RULES: Final[dict[str, Severity]] = {
    "dangling-link": "fail",
    "shebang": "fail",
    "library": "fail",
    "host-path": "fail",
    "world-writable": "fail",
    "setuid": "fail",
    "capability": "fail",
    "unknown-owner": "warn",
    "budget": "fail",
}
"""The rules that every image is held to, and what a finding leads to where nothing else is said."""

_BYTES = "[0-9]{1,15}[KMGTkmgt]?(i?[Bb])?"
_GLOB = text(r"[^\x00-\x1f\x7f]+", say="a path or a glob of one line")

ALLOW: Final[Rule] = mapping(array(_GLOB, least=1), keys=choice(RULES))
"""Of `build.allow`: for each rule the paths that it lets pass."""

CHECKS: Final[Rule] = record(
    {
        "rules": mapping(choice(["fail", "warn", "off"]), keys=choice(RULES)),
        "budget": text(_BYTES, say="a number of bytes such as 500K or 10M"),
    }
)
"""Of `build.checks`."""
