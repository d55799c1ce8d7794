"""Ranges of bytes, as HTTP asks for them (RFC 9110, section 14), and a range of what came whole instead."""

from __future__ import annotations

from collections.abc import Iterable


def range_header(start: int = 0, count: int | None = None) -> str:
    """Return the value of the header Range; empty if everything is wanted.

    start: negative counts from the end: then all bytes from there on are asked for. count: of bytes, None:
    all.
    """
    if start < 0:
        return f"bytes={start}"
    if count is None:
        return f"bytes={start}-" if start else ""
    assert count > 0, "no range of HTTP is empty"
    return f"bytes={start}-{start + count - 1}"


def take(pieces: Iterable[bytes], start: int = 0, count: int | None = None) -> bytes:
    """Return a range of what comes in pieces from its beginning on; no more pieces are read than needed."""
    if start < 0:
        tail = bytearray()
        for piece in pieces:
            tail += piece
            if len(tail) > -4 * start:
                del tail[:start]
        return bytes(tail[start:][:count])
    found, at = bytearray(), 0
    for piece in pieces:
        end = None if count is None else max(0, start + count - at)
        found += piece[max(0, start - at) : end]
        at += len(piece)
        if count is not None and at >= start + count:
            break
    return bytes(found)
