"""What a reference to a base image that nothing knows was probably meant to be."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from buildstep.errors import BuildstepError

_SUITES = {
    "debian": {"11": "bullseye", "12": "bookworm", "13": "trixie"},
    "ubuntu": {"20.04": "focal", "22.04": "jammy", "24.04": "noble"},
}
"""Numbers that people use for suites, by distribution: mmdebstrap wants the suite's name."""
SUITES = tuple(name for suites in _SUITES.values() for name in suites.values())
"""Suites that mmdebstrap knows how to make."""

_REGISTRY = re.compile(
    r"[a-z0-9][a-z0-9._-]*(:[0-9]{1,5}/)?[a-z0-9._/-]*(:[A-Za-z0-9_][A-Za-z0-9._-]*)?(@sha256:[0-9a-f]{64})?"
)


def suggestions(ref: str, schemes: Iterable[str]) -> list[str]:
    """Return references that would be understood, the likeliest first; empty where nothing fits.

    A file that is there gets the scheme of its content, `debian:bookworm` the ones of a registry and of
    mmdebstrap, a misspelt scheme the right one. schemes: of all sources.
    """
    known = list(schemes)
    scheme, colon, rest = ref.partition(":")
    if os.path.exists(ref):
        from buildstep.images.file_kind import kind_of

        try:
            return [f"{kind_of(Path(ref))}:{ref}"]
        except (BuildstepError, OSError):
            return []
    if rest.startswith("//"):
        near = difflib.get_close_matches(scheme, known, 1)
        if not near and scheme in ("http", "https") and _REGISTRY.fullmatch(rest[2:]):
            near = ["docker"]
        return [f"{name}:{rest}" for name in near]
    if colon and (near := difflib.get_close_matches(scheme, known, 1)):
        return [f"{near[0]}:{rest}"]
    found = []
    suite = _suite(scheme, rest) if colon else _suite(ref, "") or _named_suite(ref)
    if suite:
        found.append(f"mmdebstrap:{suite}")
    if (colon or "/" in ref or ref in _SUITES) and _REGISTRY.fullmatch(ref):
        found.append(f"docker://{ref}")
    return found


def _suite(distribution: str, tag: str) -> str:
    """Return the suite that an image of a distribution has, by the tag of that image."""
    known = _SUITES.get(distribution)
    if known is None:
        return ""
    word = tag.removesuffix("-slim")
    return (
        known.get(word, word if re.fullmatch("[a-z]+", word) and word != "latest" else "")
        or [*known.values()][-1]
    )


def _named_suite(word: str) -> str:
    return word if word in SUITES else ""
