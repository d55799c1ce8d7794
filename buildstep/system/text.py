"""Text for people: sizes, paths, differences of JSON documents."""

from __future__ import annotations


def shown(path: bytes) -> str:
    """A path in a tree for a message."""
    return path.decode(errors="backslashreplace") or "/"
