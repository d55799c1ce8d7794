"""gzip chunks in which what does not compress is stored: what every reader takes, and what is gained."""

from __future__ import annotations

import contextlib
import gzip
import random
import sys
import zlib

import pytest

from buildstep.formats.codecs import codec
from buildstep.formats.gzip_runs import _HEAD, _members

TEXT = b" ".join(b"word%d" % (number * number % 977) for number in range(20_000))


def mixed(rng: random.Random, pieces: int) -> bytes:
    made = []
    for _ in range(pieces):
        size = rng.choice([1, 100, 4000, 9000, 40_000])
        made.append(rng.choice([rng.randbytes(size), bytes(size), TEXT[:size]]))
    return b"".join(made)


def test_whatever_is_packed_every_reader_takes_and_is_found_again() -> None:
    chosen, rng = codec("gzip"), random.Random(1)
    for _ in range(200):
        content = mixed(rng, rng.randrange(12))
        packed = chosen.compress(content)
        assert gzip.decompress(packed) == content
        assert chosen.expand(packed) == content
        assert chosen.compress(bytearray(content)) == packed  # type: ignore[arg-type]


def test_what_does_not_compress_is_stored_wherever_it_is() -> None:
    chosen, rng = codec("gzip"), random.Random(2)
    noise = rng.randbytes(100_000)
    packed = chosen.compress(TEXT[:50_001] + noise + TEXT[:50_001])
    kinds = [bytes(member[:10]) == _HEAD for member in _members(packed)]
    assert kinds == [False, True, False]
    stored = bytes(_members(packed)[1])
    assert len(gzip.decompress(stored)) > 90_000
    assert chosen.compress(noise).startswith(_HEAD)
    assert len(chosen.compress(noise)) < len(noise) + 100


def test_what_compresses_is_one_member() -> None:
    packed = codec("gzip").compress(TEXT[:100_000])
    assert _members(packed) == [packed]
    reader = zlib.decompressobj(wbits=31)
    assert reader.decompress(packed) == TEXT[:100_000]
    assert reader.eof
    assert not reader.unused_data


def test_a_chunk_in_a_chunk() -> None:
    """The heads of stored members are in the content too, where they end nothing."""
    chosen, rng = codec("gzip"), random.Random(3)
    inner = chosen.compress(rng.randbytes(20_000))
    for content in (_HEAD * 20, inner * 9, TEXT[:9000] + _HEAD + rng.randbytes(3000) + _HEAD + TEXT[:9000]):
        packed = chosen.compress(content)
        assert chosen.expand(packed) == content
        # As when a member that is compressed has such a head in it, by blocks that are stored.
        level_0 = gzip.compress(content, compresslevel=0, mtime=0)
        assert chosen.expand(level_0 + packed) == content * 2


@pytest.mark.parametrize("harm", ["flipped", "cut off", "more"])
def test_damage_is_found(harm: str) -> None:
    chosen, rng = codec("gzip"), random.Random(4)
    content = mixed(rng, 12)
    packed = chosen.compress(content)
    for _ in range(100):
        at = rng.randrange(10, len(packed))
        if harm == "flipped":
            bad = packed[:at] + bytes([packed[at] ^ 1 << rng.randrange(8)]) + packed[at + 1 :]
        else:
            bad = packed[:at] if harm == "cut off" else packed + packed[10:at]
        found = b""
        with contextlib.suppress(Exception):  # each library has its own
            found = chosen.expand(bad)
        assert found in (b"", content)  # a bit of a header may mean nothing


def test_without_zstd_whole_chunks_are_judged_and_the_ident_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    known = codec("gzip")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    plain, rng = codec("gzip"), random.Random(5)
    assert plain.ident != known.ident
    noise = rng.randbytes(100_000)
    assert plain.compress(noise) == known.compress(noise)
    packed = plain.compress(TEXT[:50_000] + noise)
    assert len(_members(packed)) == 1
    assert known.expand(packed) == TEXT[:50_000] + noise
