"""Packs: what is written is read again, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from buildstep.files import pack
from buildstep.files.pack import DamagedPack, Frame, PackWriter, Row
from buildstep.formats.codecs import codec


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def written(folder: Path, contents: list[bytes], *, compress: bool = True) -> tuple[pack.Written, bytes]:
    with PackWriter(folder / "pack", compress=compress) as writer:
        for data in contents:
            writer.add(digest(data), data)
        found = writer.finish()
    return found, found.path.read_bytes()


def read(data: bytes) -> dict[str, bytes]:
    index = pack.read_index(lambda count: data[-count:])
    frames = pack.contents(
        index, lambda frame: data[frame.offset : frame.offset + frame.stored], list(index.rows)
    )
    return dict(frames)


@pytest.mark.parametrize("compress", [True, False])
def test_what_is_written_is_read(tmp_path: Path, compress: bool) -> None:
    contents = [b"", b"a", os.urandom(1000), b"x" * 70_000, *(b"%d" % n * 40 for n in range(9000))]
    found, data = written(tmp_path, [*contents, *contents], compress=compress)
    assert found.digest == digest(data)
    assert found.size == len(data)
    assert read(data) == {digest(one): one for one in contents}
    assert pack.read_index(lambda count: data[-count:]) == found.index
    assert len(found.index.frames) > 1, "frames are closed"
    assert (len(data) < sum(map(len, contents)) / 2) == compress


def test_the_same_contents_make_the_same_pack(tmp_path: Path) -> None:
    contents = [b"%d" % number for number in range(100)]
    first, _ = written(tmp_path, contents)
    first.path.unlink()
    second, _ = written(tmp_path, contents)
    assert first == second


def test_a_large_index_is_read_in_two_calls(tmp_path: Path) -> None:
    _, data = written(tmp_path, [os.urandom(8) for _ in range(3000)])
    calls = []

    def tail(count: int) -> bytes:
        calls.append(count)
        return data[-count:]

    assert len(pack.read_index(tail).rows) == 3000
    assert len(calls) == 2
    assert calls[0] == pack.TAIL


def test_a_failed_pack_leaves_no_file(tmp_path: Path) -> None:
    def fail(writer: PackWriter) -> None:
        writer.add(digest(b"x"), b"x")
        raise KeyError

    with pytest.raises(KeyError), PackWriter(tmp_path / "pack") as writer:
        fail(writer)
    assert list(tmp_path.iterdir()) == []


def test_any_damage_is_noticed(tmp_path: Path) -> None:
    """Of each byte: either the pack cannot be read, or a content has another digest."""
    _, data = written(tmp_path, [b"some text" * 20, b"other text" * 30])
    for place in range(len(data)):
        damaged = data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
        try:
            wrong = [name for name, content in read(damaged).items() if digest(content) != name]
        except DamagedPack:
            continue
        assert wrong, place
    for end in range(len(data)):
        with pytest.raises(DamagedPack):
            read(data[:end])


@pytest.mark.parametrize(
    ("frame", "row"),
    [
        (Frame(0, 4, 4, 7), Row(0, 0, 4)),
        (Frame(0, 4, 1 << 31, 0), Row(0, 0, 4)),
        (Frame(0, 4, 4, 0), Row(1, 0, 4)),
        (Frame(0, 4, 4, 0), Row(0, 2, 4)),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path, frame: Frame, row: Row) -> None:
    """Whoever wrote the store can have made an index of his own."""
    with PackWriter(tmp_path / "pack") as writer:
        writer.add(digest(b"text"), b"text")
        writer._close_frame()
        writer._frames[0] = frame
        writer._rows[digest(b"text")] = row
        path = writer.finish().path
    data = path.read_bytes()
    with pytest.raises(DamagedPack):
        pack.read_index(lambda count: data[-count:])


def test_a_frame_that_would_expand_to_more_is_not_expanded() -> None:
    bomb = codec("zstd").compress(bytes(50 << 20))
    with pytest.raises(DamagedPack, match="allowed"):
        pack.expand(Frame(0, len(bomb), 1000, 1), bomb)
