"""Stream headers, the pipes around native streams, and the manifest beside an image file."""

from __future__ import annotations

import os
import struct

import pytest

from buildstep.errors import DatasetError, ImageError
from buildstep.formats.zfs_stream import BEGIN_SIZE, read_begin
from buildstep.pool.streams import PIPE_SIZE, consuming, producing


def header(order: str = "<", kind: int = 0, version: int = 17, magic: int = 0x2F5BACBAC) -> bytes:
    name = b"zones/x@final"
    return struct.pack(order + "IIQQQIIQQ256s", kind, 0, magic, version, 1, 2, 12, 11, 22, name).ljust(
        BEGIN_SIZE, b"\0"
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_begin(order: str) -> None:
    begin = read_begin(header(order))
    assert (begin.guid, begin.from_guid, begin.name) == (11, 22, "zones/x@final")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "ends after 0 bytes"),
        (header()[:-1], "ends after 311"),
        (bytes(BEGIN_SIZE), "no magic"),
        (header(kind=1), "begins nothing"),
        (header(version=2), "package of several"),
    ],
)
def test_what_is_no_stream(data: bytes, match: str) -> None:
    with pytest.raises(ImageError, match=match):
        read_begin(data)


def write_all(fd: int, count: int) -> None:
    data = memoryview(bytes(count))
    while data:
        data = data[os.write(fd, data) :]


def test_producer_is_read_to_its_end() -> None:
    with producing(lambda fd: write_all(fd, 3 * PIPE_SIZE)) as (read, flow):
        total = 0
        while chunk := os.read(read, 1 << 20):
            total += len(chunk)
        flow.check()
    assert total == 3 * PIPE_SIZE


def test_producer_that_fails() -> None:
    def job(fd: int) -> None:
        os.write(fd, b"half")
        raise DatasetError("the pool is gone")

    with producing(job) as (read, flow):
        assert os.read(read, 100) == b"half"
        assert os.read(read, 100) == b""
        with pytest.raises(DatasetError, match="gone"):
            flow.check()


def test_producer_ends_when_nobody_reads() -> None:
    with pytest.raises(ZeroDivisionError), producing(lambda fd: write_all(fd, 3 * PIPE_SIZE)):
        raise ZeroDivisionError


def test_consumer_that_fails_is_the_error() -> None:
    def job(fd: int) -> None:
        os.read(fd, 10)
        raise DatasetError("bad stream")

    with pytest.raises(DatasetError, match="bad stream"), consuming(job) as (write, _):
        write_all(write, 3 * PIPE_SIZE)


def test_consumer_that_takes_no_more() -> None:
    with pytest.raises(BrokenPipeError), consuming(lambda fd: None) as (write, _):
        write_all(write, 3 * PIPE_SIZE)


def test_consumer_sees_the_end_when_we_fail() -> None:
    seen: list[bytes] = []

    def job(fd: int) -> None:
        while chunk := os.read(fd, 100):
            seen.append(chunk)

    def give(write: int) -> None:
        os.write(write, b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), consuming(job) as (write, _):
        give(write)
    assert b"".join(seen) == b"half"
