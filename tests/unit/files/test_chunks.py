"""Large contents are cut where their content says so."""

from __future__ import annotations

import hashlib
import io
import random
import sys

import pytest

from buildstep.errors import StoreError
from buildstep.files import chunks

DATA = random.Random(1).randbytes(12 << 20)


def digests(data: bytes) -> list[str]:
    return [hashlib.sha256(chunk).hexdigest() for chunk in chunks.cut(io.BytesIO(data))]


def test_the_chunks_are_the_content() -> None:
    found = list(chunks.cut(io.BytesIO(DATA)))
    assert b"".join(found) == DATA
    assert all(chunks.SMALLEST <= len(chunk) <= chunks.LARGEST for chunk in found[:-1])


def test_bytes_put_in_front_change_few_chunks() -> None:
    before, after = digests(DATA), digests(b"new" + DATA)
    assert len(set(after) - set(before)) <= 2


def test_without_the_library_they_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    known = digests(DATA[: 3 << 20])
    monkeypatch.setitem(sys.modules, "pyfastcdc", None)
    assert digests(DATA[: 3 << 20]) == known


def test_a_recipe_says_where_each_chunk_is() -> None:
    one, two = "a" * 64, "b" * 64
    recipe = chunks.parse(chunks.dumps([(one, 5), (two, 7)]))
    assert recipe.pieces == ((one, 0, 5), (two, 5, 7))
    assert recipe.size == 12


@pytest.mark.parametrize(
    "data",
    [
        b"", b"buildstep-chunks 2\n", b"buildstep-chunks 1\nxyz 5\n", b"buildstep-chunks 1\n" + b"a" * 64 + b" 0\n",
        b"buildstep-chunks 1\n" + b"a" * 64 + b" -1\n", b"buildstep-chunks 1\n" + b"a" * 64 + b" 9999999999\n",
        b"\xff",
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_refused(data: bytes) -> None:
    with pytest.raises(StoreError):
        chunks.parse(data)
