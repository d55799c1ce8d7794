"""Standard streams that are closed, lost or left non-blocking, each in a process of its own."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable

import pytest

from buildstep.system import standard_streams
from buildstep.system.standard_streams import STDERR, STDIN, STDOUT


def apart(job: Callable[[], object]) -> bool:
    """Run a job in a fork, which may do to its streams what it likes; return whether it returned something true."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            status = 0 if job() else 1
        os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def close(*numbers: int) -> None:
    """Do to this process what its caller does who closes its streams."""
    for number in numbers:
        with contextlib.suppress(OSError):
            os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)


def test_a_closed_stream_is_open_and_empty() -> None:
    def job() -> bool:
        close(STDIN, STDOUT, STDERR)
        standard_streams.prepare()
        sys.stdout.write("nowhere")
        sys.stderr.write("nowhere \udcff\n")
        same = all(os.path.samestat(os.fstat(number), os.stat(os.devnull)) for number in (0, 1, 2))
        # What is opened later must not take their place, and a child has them.
        later = os.open(os.devnull, os.O_RDONLY)
        return (
            same
            and later > 2
            and sys.stdin.read() == ""
            and all(os.get_inheritable(number) for number in (0, 1, 2))
            and all(standard_streams.closed(number) for number in (0, 1, 2))
        )

    assert apart(job)


def test_only_the_closed_one_is_replaced() -> None:
    def job() -> bool:
        read, write = os.pipe()
        os.dup2(write, STDERR)
        sys.stderr = open(STDERR, "w", closefd=False)  # noqa: SIM115
        close(STDOUT)
        standard_streams.prepare()
        sys.stderr.write("seen\n")
        sys.stderr.flush()
        told = [standard_streams.closed(number) for number in (0, 1, 2)]
        return os.read(read, 10) == b"seen\n" and told == [False, True, False]

    assert apart(job)


def test_a_stream_that_was_left_non_blocking_waits() -> None:
    def job() -> bool:
        _, write = os.pipe()
        os.dup2(write, STDOUT)
        os.set_blocking(STDOUT, False)
        standard_streams.prepare()
        return os.get_blocking(STDOUT)

    assert apart(job)


def test_what_waits_in_the_buffer_of_a_lost_stream_fails_only_once() -> None:
    def job() -> bool:
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, STDERR)
        sys.stderr = open(STDERR, "w", closefd=False)  # noqa: SIM115
        sys.stderr.write("x")
        with standard_streams.telling():
            sys.stderr.flush()
        sys.stderr.flush()
        sys.stderr.write("y")
        sys.stderr.flush()
        return True

    assert apart(job)


def test_the_end_of_a_process_is_no_new_failure() -> None:
    def job() -> bool:
        with open("/dev/full", "w") as full:
            os.dup2(full.fileno(), STDOUT)
        sys.stdout = open(STDOUT, "w", closefd=False)  # noqa: SIM115
        sys.stdout.write("x")
        standard_streams.flush()
        sys.stdout.flush()
        return True

    assert apart(job)


def test_a_broken_pipe_is_a_readers_if_standard_output_has_none() -> None:
    broken = BrokenPipeError(errno.EPIPE, "Broken pipe")

    def job(leave: bool) -> bool:
        read, write = os.pipe()
        os.dup2(write, STDOUT)
        os.close(write)
        if leave:
            os.close(read)
        found = standard_streams.reader_left(broken)
        if leave:
            os.write(STDOUT, b"it is lost now, and fails no more")
        return found is leave

    assert apart(lambda: job(True))
    assert apart(lambda: job(False)), "a pipe to a tool, perhaps"
    assert not standard_streams.reader_left(OSError(errno.ENOSPC, "full"))
    assert not standard_streams.reader_left(ValueError())


@pytest.mark.parametrize(
    ("encoding", "text", "written"),
    [
        ("utf-8", "out\udcff/café", b"out\xff/caf\xc3\xa9"),
        ("latin-1", "out\udcff/€", b"out\xff/\\u20ac"),
        ("ascii", "é\udce9", b"\\xe9\xe9"),
    ],
)
def test_standard_output_takes_any_name(
    monkeypatch: pytest.MonkeyPatch, encoding: str, text: str, written: bytes
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    standard_streams.prepare()
    stream.write(text)
    stream.flush()
    assert raw.getvalue() == written
