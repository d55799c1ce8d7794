"""Where members begin and end, and patches between two versions of a content."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest

from buildstep.formats import zstd_patch
from buildstep.formats.codecs import codec
from buildstep.formats.members import compression_of, members

SIZES = [0, 1, 255, 256, 257, 65_791, 65_792, 100_000, 400_000]


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_the_members_of_a_file_are_found(name: str, tmp_path: Path) -> None:
    state = random.Random(1)
    raws = [state.randbytes(size // 2) + bytes(size - size // 2) for size in SIZES]
    packed = [codec(name).compress(raw) for raw in raws]
    path = tmp_path / "layer"
    path.write_bytes(b"".join(packed))
    found = members(path)
    assert compression_of(path) == name
    # A chunk of gzip can be several members: what does not compress is stored.
    assert sum(member.raw for member in found) == sum(SIZES)
    ends = {member.offset + member.length for member in found}
    assert ends >= {sum(map(len, packed[: n + 1])) for n in range(len(packed))}
    data = path.read_bytes()
    expand = codec(name).expand
    assert [len(expand(data[one.offset : one.offset + one.length])) for one in found] == [
        one.raw for one in found
    ]
    assert [one.offset for one in found] == [sum(one.length for one in found[:n]) for n in range(len(found))]
    for wrong in (b"".join(packed)[:-1], b"".join(packed) + b"x", packed[-1][:20]):
        path.write_bytes(wrong)
        assert members(path) == []


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd" + b"\xff" * 40]
)
def test_a_file_that_is_none_has_none(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    assert members(tmp_path / "file") == []


def test_a_gzip_file_of_one_large_member_is_no_row_of_members(tmp_path: Path) -> None:
    squeeze = zlib.compressobj(1, wbits=31)
    data = squeeze.compress(bytes(70 << 20)) + squeeze.flush()
    (tmp_path / "file").write_bytes(data)
    assert members(tmp_path / "file") == []


def test_a_patch_makes_the_new_of_the_old() -> None:
    state = random.Random(2)
    old = state.randbytes(3 << 20)
    new = old[: 1 << 20] + b"between" + old[2 << 20 :] + old[: 1 << 20]
    frame = zstd_patch.make(new, old)
    assert len(frame) < 2000
    assert zstd_patch.apply(frame, old, len(new)) == new
    for wrong in (len(new) - 1, len(new) + 1, 0):
        with pytest.raises(ValueError, match="another number of bytes"):
            zstd_patch.apply(frame, old, wrong)
    for broken, before in ((frame[:-1], old), (frame, old[1:]), (b"no frame", old)):
        with pytest.raises(ValueError):
            zstd_patch.apply(broken, before, len(new))


def test_a_patch_of_nothing() -> None:
    assert zstd_patch.apply(zstd_patch.make(b"", b""), b"", 0) == b""
    assert zstd_patch.apply(zstd_patch.make(b"new", b""), b"", 3) == b"new"
