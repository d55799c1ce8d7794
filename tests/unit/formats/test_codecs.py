"""Codecs and the part writer: what it writes, how parts stay the same, and how it fails."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import itertools
import lzma
import os
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep.emit.stored_layer import ChunkLost
from buildstep.errors import EmitError, ImageError, ToolMissing, UsageError
from buildstep.formats.chunk_boundaries import ChunkBoundaries
from buildstep.formats.chunked import ChunkWriter, Stream
from buildstep.formats.codecs import CODECS, Codec, codec
from buildstep.formats.decompress import Decompressed
from buildstep.system import space


@pytest.fixture
def out(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


PART_MAX = ChunkBoundaries(codec("none")).most

Files = list[tuple[bytes, int]]


def body(path: bytes, size: int) -> bytes:
    seed = hashlib.sha256(path).digest()
    return (seed * (size // 32 + 1))[:size]


def put(fd: int, files: Files, name: str = "none") -> Stream:
    os.lseek(fd, 0, os.SEEK_SET)
    os.ftruncate(fd, 0)
    with ChunkWriter(fd, codec(name)) as parts:
        for path, size in files:
            parts.boundary(path, size)
            parts.write(hashlib.sha512(path).digest() * 8)
            data = memoryview(body(path, size))
            for at in range(0, size, 1 << 20):
                parts.write(data[at : at + (1 << 20)])
            parts.write(bytes(-size % 512))
        return parts.close()


def many(count: int = 3000, mean: int = 12_000, seed: int = 1) -> Files:
    rng = random.Random(seed)
    return [(b"dir%03d/file%05d" % (i // 100, i), int(rng.expovariate(1 / mean))) for i in range(count)]


def pieces(fd: int, stream: Stream) -> list[bytes]:
    data = content(fd)
    return [data[part.offset : part.offset + part.length] for part in stream.chunks]


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_gives_one_stream_that_its_standard_reader_takes(name: str, out: int) -> None:
    files = many(600)
    raw_stream = put(out, files)
    raw = content(out)
    stream = put(out, files, name)
    packed = content(out)
    assert len(stream.chunks) > 2
    assert (stream.raw_sha256, stream.raw_size) == (hashlib.sha256(raw).hexdigest(), len(raw))
    assert (stream.sha256, stream.size) == (hashlib.sha256(packed).hexdigest(), len(packed))
    assert raw_stream.raw_sha256 == stream.raw_sha256
    readers = {"gzip": gzip.decompress, "xz": lzma.decompress, "bzip2": bz2.decompress}
    if name in readers:
        assert readers[name](packed) == raw
    with Decompressed(io.BytesIO(packed)) as source:
        assert source.read(len(raw) + 1) == raw
    for part in stream.chunks:  # each one stands alone
        piece = packed[part.offset : part.offset + part.length]
        with Decompressed(io.BytesIO(piece)) as source:
            assert (
                source.read(part.raw_length + 1) == raw[part.raw_offset : part.raw_offset + part.raw_length]
            )
    assert put(out, files, name) == stream
    assert content(out) == packed


@pytest.mark.parametrize("name", CODECS)
def test_an_empty_stream_is_valid(name: str, out: int) -> None:
    with ChunkWriter(out, codec(name)) as parts:
        stream = parts.close()
    assert stream.raw_size == 0
    assert stream.sha256 == hashlib.sha256(content(out)).hexdigest()
    with Decompressed(io.BytesIO(content(out))) as source:
        assert source.read(1) == b""


@pytest.mark.parametrize("name", CODECS)
def test_the_same_content_gives_the_same_bytes_whatever_was_compressed_before(name: str) -> None:
    """A library that looks at memory it has not cleared finds other matches there now and then: the content
    before is much like the one after, so that what was left behind fits."""
    rng = random.Random(7)
    compress = codec(name).compress
    for _ in range(600 if name == "gzip" else 20):
        words = [rng.randbytes(rng.randrange(2, 40)) for _ in range(rng.choice([5, 50]))]
        content = b"".join(rng.choices(words, k=rng.choice([60, 100, 450])))

        def alike(content: bytes = content) -> bytes:
            cut = rng.randrange(len(content))
            return content[:cut] + rng.randbytes(rng.randrange(1, 60)) + content[cut:]

        first = compress(content)
        with ThreadPoolExecutor(3) as threads:
            rows = [content, alike(), content, alike(), content, content[5:], content, alike(), content]
            packed = list(threads.map(compress, rows))
        assert {first, *packed[::2]} == {first}


def test_gzip_headers_have_no_time_and_no_name() -> None:  # D24
    for pack in (codec("gzip").compress,):
        head = pack(b"x")[:10]
        assert head[:4] == b"\x1f\x8b\x08\0"
        assert head[4:8] == bytes(4)


def test_gzip_is_made_by_a_library_whose_bytes_do_not_depend_on_the_processor() -> None:
    assert codec("gzip").ident.startswith("libdeflate ")


def test_gzip_without_libdeflate_uses_zlib_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deflate", None)
    monkeypatch.setitem(sys.modules, "isal", None)
    monkeypatch.setitem(sys.modules, "isal.igzip_lib", None)
    plain = codec("gzip")
    assert plain.ident.startswith("zlib ")
    packed = plain.compress(b"abc" * 100)
    assert packed[3:8] == bytes(5)
    with Decompressed(io.BytesIO(packed + packed)) as source:
        assert source.read(1000) == b"abc" * 200


def test_zstd_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ToolMissing) as caught:
        codec("zstd")
    assert "buildstep[fast]" in caught.value.hint


def test_an_unknown_codec() -> None:
    with pytest.raises(UsageError) as caught:
        codec("lz4")
    assert "gzip" in caught.value.hint


@pytest.mark.parametrize("where", [0, 700, 1500, 2999])
def test_one_more_file_changes_few_parts(out: int, where: int) -> None:
    files = many()
    before = put(out, files)
    old = set(pieces(out, before))
    assert len(old) > 10
    files.insert(where, (files[where][0] + b"-new", 5000))
    after = put(out, files)
    assert sum(piece not in old for piece in pieces(out, after)) <= 3
    assert len(after.chunks) - len(before.chunks) <= 1


def test_a_changed_file_and_a_removed_file_change_few_parts(out: int) -> None:
    files = many()
    old = set(pieces(out, put(out, files)))
    path, size = files[1234]
    files[1234] = (path, size + 777)
    assert sum(piece not in old for piece in pieces(out, put(out, files))) <= 3
    files = many()
    del files[2000]
    assert sum(piece not in old for piece in pieces(out, put(out, files))) <= 3


def test_parts_have_bounded_sizes(out: int) -> None:
    files = [*many(500), (b"m", PART_MAX + 5), *((b"n%d" % i, 3 << 20) for i in range(9))]
    parts = put(out, files).chunks
    assert max(part.raw_length for part in parts) <= PART_MAX + 512
    middle = [p for p in parts if p.path not in (b"m", b"n0", b"n8")][:-1]
    assert all(p.raw_length >= codec("none").grain for p in middle if p.path.startswith(b"dir"))


def test_a_large_file_has_parts_of_its_own_at_fixed_offsets(out: int) -> None:
    size = 3 * PART_MAX + 1000
    lead = [(b"a%d" % i, 50_000) for i in range(3)]
    files: Files = [*lead, (b"big", size), (b"c", 10)]
    stream = put(out, files)
    big = [part for part in stream.chunks if part.path == b"big"]
    assert [part.raw_length for part in big] == [512 + PART_MAX, PART_MAX, PART_MAX, 1024]
    old = set(pieces(out, stream))
    files.insert(1, (b"a0-new", 7777))
    again = put(out, files)
    assert [
        p.path for p, piece in zip(again.chunks, pieces(out, again), strict=True) if piece not in old
    ] == [b"a0"]


def test_known_parts_are_taken_and_not_compressed_again(out: int) -> None:
    chosen = codec("zstd")
    files = many(1000)
    first = put(out, files, "zstd")
    packed = content(out)
    known = [(part, packed[part.offset : part.offset + part.length]) for part in first.chunks]
    os.lseek(out, 0, os.SEEK_SET)
    os.ftruncate(out, 0)
    with ChunkWriter(out, chosen) as parts:
        for part, data in known:
            parts.take(part.path, part.raw_length, lambda data=data: (chosen.expand(data), data))  # type: ignore[misc]
        again = parts.close()
    assert content(out) == packed
    assert again.compressed == 0
    assert all(part.reused for part in again.chunks)
    assert replace(again, chunks=()) == replace(first, chunks=())


def test_a_part_that_cannot_be_taken_fails_the_stream(out: int) -> None:
    def lost() -> tuple[bytes, bytes]:
        raise ChunkLost("gone")

    def write() -> None:
        with ChunkWriter(out, codec("none")) as parts:
            parts.take(b"a", 1, lost)
            parts.close()

    with pytest.raises(ChunkLost):
        write()
    _no_threads()


def feed(fd: int, chosen: Codec, mebibytes: int, error: BaseException | None = None) -> None:
    with ChunkWriter(fd, chosen, what="hello.tar") as parts:
        for _ in range(mebibytes):
            parts.write(os.urandom(1 << 20))
        if error:
            raise error
        parts.close()


def test_a_full_disk_is_an_emit_error_and_not_a_hang() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(EmitError, match="No space left") as caught:
            feed(fd, codec("none"), 100)
    finally:
        os.close(fd)
    assert "hello.tar" in caught.value.message
    assert space.cause_of(caught.value) is not None
    _no_threads()


@pytest.mark.parametrize("size", [1, 40])
def test_a_failing_codec_is_an_emit_error(out: int, size: int) -> None:
    def fail(_part: bytes | memoryview) -> bytes:
        raise OSError(errno.EIO, "broken")

    with pytest.raises(EmitError, match="broken"):
        feed(out, replace(codec("none"), compress=fail), size)
    _no_threads()


def test_an_error_of_the_caller_stops_the_threads(out: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        feed(out, codec("gzip"), 40, KeyboardInterrupt())
    _no_threads()


def _no_threads() -> None:
    for _ in range(100):
        names = [thread.name for thread in threading.enumerate()]
        if not any(name.startswith(("compress", "write", "decompress")) for name in names):
            return
        time.sleep(0.02)
    raise AssertionError(names)


def test_memory_does_not_grow_with_the_stream() -> None:
    fd = os.open(os.devnull, os.O_WRONLY)
    chunk = bytes(1 << 20)
    tracemalloc.start()
    try:
        with ChunkWriter(fd, codec("gzip"), workers=2) as parts:
            for _ in range(600):
                parts.write(chunk)
            parts.close()
        assert tracemalloc.get_traced_memory()[1] < 120 << 20
    finally:
        tracemalloc.stop()
        os.close(fd)


# -- reading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gzip", "xz", "bzip2"])
@pytest.mark.parametrize("cut", [5, 100, -1, -5])
def test_cut_off_streams_are_damage(name: str, cut: int) -> None:
    packed = codec(name).compress(os.urandom(5000))
    with Decompressed(io.BytesIO(packed[:cut])) as source:
        if cut == 5 and name == "xz":  # too short to be taken for compressed
            assert source.read(6000) == packed[:5]
        else:
            with pytest.raises(ImageError):
                source.read(6000)


def test_junk_behind_a_member_is_damage_and_padding_is_not() -> None:
    packed = codec("gzip").compress(b"abc")
    with Decompressed(io.BytesIO(packed + bytes(1000))) as source:
        assert source.read(10) == b"abc"
    with Decompressed(io.BytesIO(packed + b"junk")) as source, pytest.raises(ImageError):
        source.drain()


@pytest.mark.parametrize("name", ["gzip", "xz", "zstd", "bzip2"])
def test_bombs_are_refused_before_they_are_large(name: str) -> None:
    packed = codec(name).compress(b"x" * (64 << 20))
    with Decompressed(io.BytesIO(packed), ratio=10, floor=1 << 20) as source:
        with pytest.raises(ImageError, match="more than 10 times"):
            source.drain()
        assert source.tell() <= 24 << 20
    # Runs of zeros become holes: any number of them may be in an archive.
    zeros = codec(name).compress(bytes(64 << 20))
    for data, ratio in ((packed, 0), (zeros, 10)):
        with Decompressed(io.BytesIO(data), ratio=ratio, floor=1 << 20) as source:
            source.drain()
            assert source.tell() == 64 << 20


def test_without_a_thread_the_same_is_read_and_refused() -> None:
    packed = codec("gzip").compress(bytes(range(256)) * 40_000)
    with Decompressed(io.BytesIO(packed), ahead=False) as source:
        assert source.read(5) == bytes(range(5))
        assert source.seek(9_000_000) == 9_000_000
        source.drain()
        assert source.tell() == 256 * 40_000
    with pytest.raises(ImageError), Decompressed(io.BytesIO(packed[:-100]), ahead=False) as source:
        source.drain()
    with (
        pytest.raises(ImageError, match="more than 2 times"),
        Decompressed(io.BytesIO(packed), ratio=2, floor=1 << 20, ahead=False) as source,
    ):
        source.drain()


def test_seeking_goes_forward_only() -> None:
    with Decompressed(io.BytesIO(bytes(range(256)) * 100)) as source:
        source.seek(300)
        assert source.read(2) == bytes([44, 45])
        with pytest.raises(ImageError):
            source.seek(5)
        assert source.seek(10**9) == 25600


def test_leaving_early_stops_the_thread() -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return b"x" * max(size, 1)

    with Decompressed(Endless()) as source:  # type: ignore[arg-type]
        source.read(10)
    _no_threads()


def test_reading_in_all_sizes_gives_the_same() -> None:
    data = os.urandom(3 << 20)
    packed = codec("zstd").compress(data)
    got = []
    with Decompressed(io.BytesIO(packed)) as source:
        for size in itertools.cycle([1, 511, 1 << 20, 7, 300_000]):
            chunk = source.read(size)
            if not chunk:
                break
            got.append(chunk)
    assert b"".join(got) == data


@pytest.mark.commands
def test_importing_loads_no_codec_library() -> None:
    code = "import sys, buildstep.formats.codecs, buildstep.formats.decompress; print([m for m in ('deflate', 'isal', 'zstandard') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
