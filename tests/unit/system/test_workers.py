"""Processes that share a job."""

from __future__ import annotations

import copyreg
import errno
import importlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import ImageError
from buildstep.files.interface import Damaged
from buildstep.system import workers
from buildstep.system.workers import Send, WorkerLost


def test_what_they_send_comes(tmp_path: Any) -> None:
    def job(share: int, send: Send) -> None:
        for number in range(share):
            send((share, number, os.getpid()))

    with workers.running([3, 0, 2], job) as values:
        found = list(values)
    assert sorted(row[:2] for row in found) == [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    assert len({row[2] for row in found} | {os.getpid()}) == 3


class Refused(Exception):
    """An error of a worker's own."""


def test_their_error_is_ours() -> None:
    def job(share: int, send: Send) -> None:
        raise Refused(f"number {share}")

    with pytest.raises(Refused, match="number 7"), workers.running([7], job) as values:
        list(values)


def test_an_error_that_cannot_be_sent_is_told() -> None:
    def job(_share: int, _send: Send) -> None:
        raise Refused(lambda: None)

    with pytest.raises(RuntimeError, match="Refused"), workers.running([0], job) as values:
        list(values)


def test_all_that_an_error_of_ours_holds_comes() -> None:
    def job(_share: int, _send: Send) -> None:
        try:
            raise OSError(errno.ENOSPC, "full", "/there")
        except OSError as error:
            raise Damaged("damaged", name="objects/x", hint="do this") from error

    with pytest.raises(Damaged, match="damaged") as caught, workers.running([0], job) as values:
        list(values)
    assert (caught.value.name, caught.value.hint) == ("objects/x", "do this")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert caught.value.__cause__.filename == "/there"


def test_one_that_is_killed_is_noticed() -> None:
    def job(_share: int, send: Send) -> None:
        send("here")
        os.kill(os.getpid(), signal.SIGKILL)

    with workers.running([0], job) as values:
        assert next(values) == "here"
        with pytest.raises(WorkerLost):
            next(values)


def test_they_end_with_the_block() -> None:
    def job(_share: int, send: Send) -> None:
        send(os.getpid())
        time.sleep(60)

    with workers.running([0, 0], job) as values:
        pids = [next(values), next(values)]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("sends", [True, False])
def test_they_end_with_their_parent(sends: bool) -> None:
    begin = time.monotonic()
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:

        def job(_share: int, send: Send) -> None:
            os.write(write, b"%d\n" % os.getpid())
            while sends:
                send("still here")
                time.sleep(0.01)
            time.sleep(60)

        try:
            with workers.running([0], job) as values:
                for _ in values:
                    pass
        finally:
            os._exit(1)
    os.close(write)
    child = int(os.read(read, 20))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    # The pipe ends when its last writer is gone.
    assert os.read(read, 20) == b""
    os.close(read)
    assert child > 0
    assert time.monotonic() - begin < 30


class _Foreign(Exception):
    """As of a C library whose module has another name: nobody can make it again."""


_Foreign.__module__ = "not_there"


def test_an_error_travels_alone_whatever_a_library_has_every_pickle_do() -> None:
    """tblib has errors take their causes along, and dask loads it."""

    def job(_share: int, send: Send) -> None:
        try:
            try:
                raise _Foreign
            except _Foreign as error:
                raise ImageError("the archive is damaged") from error
        except ImageError as error:
            send(error)

    def with_cause(error: BaseException) -> tuple[object, ...]:
        return ImageError, error.args, {"cause": error.__cause__}

    copyreg.pickle(ImageError, with_cause)  # type: ignore[arg-type]
    try:
        with workers.running([0], job) as values:
            (found,) = values
    finally:
        del copyreg.dispatch_table[ImageError]
    assert isinstance(found, ImageError)
    assert found.message == "the archive is damaged"


def test_a_worker_can_import_what_another_thread_was_importing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(0.3)\nvalue = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    thread = threading.Thread(target=importlib.import_module, args=("slow_module",))
    thread.start()
    while "slow_module" not in sys.modules:
        time.sleep(0.01)
    pid = workers.fork()
    if pid == 0:
        signal.alarm(10)
        os._exit(importlib.import_module("slow_module").value)
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    sys.modules.pop("slow_module")
