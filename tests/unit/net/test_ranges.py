"""Ranges: what is asked for, and what is taken of a body that came whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from buildstep.net.ranges import range_header, take


@pytest.mark.parametrize(
    ("start", "count", "header"),
    [
        (0, None, ""), (5, None, "bytes=5-"), (0, 1, "bytes=0-0"), (5, 10, "bytes=5-14"), (-7, None, "bytes=-7"),
        (-7, 3, "bytes=-7"),
    ],
)  # fmt: skip
def test_the_header(start: int, count: int | None, header: str) -> None:
    assert range_header(start, count) == header


def test_a_slice_is_that_of_python() -> None:
    data = bytes(range(40))
    for size in (1, 3, 7, 40, 100):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        for start in (*range(-45, 45, 3), -40, 40):
            for count in (None, 0, 1, 5, 39, 40, 80):
                begin = max(0, len(data) + start) if start < 0 else start
                assert take(pieces, start, count) == data[begin:][:count], (size, start, count)
    assert take([], 3, 4) == take([], -3) == b""


def test_no_more_is_read_than_needed() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"abcd"
        yield b"efgh"
        raise AssertionError("read on")

    assert take(pieces(), 2, 4) == b"cdef"
    assert take(pieces(), 4, 4) == b"efgh"


def test_the_end_of_much_does_not_take_much_memory() -> None:
    assert take((b"%06d" % number for number in range(50_000)), -12) == b"049998049999"
