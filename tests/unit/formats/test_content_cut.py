"""Content is cut where it says so: the same with and without the library, however it comes."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import pytest

from buildstep.formats import content_cut
from buildstep.formats.content_cut import Cutter, Sizes, cut

SMALL = Sizes(1 << 10, 4 << 10, 16 << 10)
SIZES = [SMALL, Sizes(256, 512, 1024), Sizes(64, 256, 1 << 10), Sizes(8 << 10, 16 << 10, 32 << 10)]


def parts(data: bytes, rng: random.Random) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        step = rng.choice([1, 511, 70_000, 1 << 20])
        yield data[at : at + step]
        at += step


def ends(data: bytes, sizes: Sizes, seed: int = 1) -> list[int]:
    found, total = [], 0
    pieces = [bytes(piece) for piece in cut(parts(data, random.Random(seed)), sizes)]
    assert b"".join(pieces) == data
    assert all(sizes.least <= len(piece) <= sizes.most for piece in pieces[:-1])
    for piece in pieces:
        total += len(piece)
        found.append(total)
    return found


def contents() -> list[bytes]:
    rng = random.Random(2)
    noise = rng.randbytes(300_001)
    return [
        b"",
        b"x",
        noise[:777],
        noise,
        bytes(100_000),
        b"line of text\n" * 9000,
        bytes(9999) + noise[:99_999],
    ]


@pytest.mark.parametrize("sizes", SIZES)
def test_without_the_library_the_cut_is_the_same(sizes: Sizes, monkeypatch: pytest.MonkeyPatch) -> None:
    known = [ends(content, sizes) for content in contents()]
    assert len(known[3]) > 5
    monkeypatch.setitem(sys.modules, "pyfastcdc", None)
    assert [ends(content, sizes) for content in contents()] == known


def test_the_largest_sizes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    data, sizes = random.Random(3).randbytes(3 << 20), Sizes(256 << 10, 1 << 20, 4 << 20)
    known = ends(data, sizes)
    monkeypatch.setitem(sys.modules, "pyfastcdc", None)
    assert ends(data, sizes) == known


def test_how_the_content_comes_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    data = random.Random(4).randbytes(500_000)
    monkeypatch.setattr(content_cut, "_WINDOW", 1)
    known = ends(data, SMALL)
    monkeypatch.setattr(content_cut, "_WINDOW", 100_000)
    assert all(ends(data, SMALL, seed) == known for seed in range(9))
    cutter = Cutter(SMALL)
    assert sum(map(len, [*cutter.feed(data), *cutter.rest()])) == len(data)


@pytest.mark.parametrize("where", [0, 1, 100_000, 499_999])
def test_an_insertion_moves_few_cuts(where: int) -> None:
    data = random.Random(5).randbytes(500_000)
    before = ends(data, SMALL)
    after = ends(data[:where] + b"new" + data[where:], SMALL)
    old = {end + 3 if end > where else end for end in before}
    assert len(before) > 50
    assert len(set(after) - old) <= 3


def test_pieces_are_named_with_and_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    content_cut.naming.cache_clear()
    kind, name = content_cut.naming()
    assert kind == "blake3"
    assert name(b"a") == name(memoryview(b"a")) != name(b"b")
    monkeypatch.setitem(sys.modules, "blake3", None)
    content_cut.naming.cache_clear()
    kind, name = content_cut.naming()
    assert kind == "sha256"
    assert len(name(b"a")) == 32
    content_cut.naming.cache_clear()
