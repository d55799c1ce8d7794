"""Values on disk that are quick to read: framed records of marshal data, each with its digest before it.

A record is the SHA-256 of its data, their length (8 bytes, little endian), and the data. Only what we wrote
ourselves is read this way; a record that is cut short or has another digest ends the file.
"""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Iterator
from typing import IO, Any

_HEAD = 40


def write(stream: IO[bytes], value: Any) -> None:
    """Add a record. The value must be made of types that marshal knows."""
    body = marshal.dumps(value)
    stream.writelines((hashlib.sha256(body).digest(), len(body).to_bytes(8, "little"), body))


def read(data: bytes) -> Iterator[tuple[Any, int]]:
    """Yield the value of each complete record, and the offset where it ends."""
    for body, end in _bodies(data):
        try:
            value = marshal.loads(body)  # noqa: S302 - ours, by its digest
        except (ValueError, EOFError, TypeError):  # of another Python
            return
        yield value, end


def sound(data: bytes) -> bool:
    """Say whether there is nothing but complete records, each with its digest; their values are not read."""
    ends = [end for _, end in _bodies(data)]
    return (ends[-1] if ends else 0) == len(data)


def _bodies(data: bytes) -> Iterator[tuple[memoryview, int]]:
    """Yield the data of each complete record that has its digest, and the offset where it ends."""
    view = memoryview(data)
    at = 0
    while at + _HEAD <= len(view):
        begin, end = at + _HEAD, at + _HEAD + int.from_bytes(view[at + 32 : at + _HEAD], "little")
        if end > len(view) or hashlib.sha256(view[begin:end]).digest() != view[at : at + 32]:
            return
        yield view[begin:end], end
        at = end
