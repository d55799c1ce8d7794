"""Native streams: pools whose datasets can be sent and received as they are, and the pipes between."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from buildstep.pool.interface import Dataset, Kind
from buildstep.tree.entry import FileList

PIPE_SIZE = 1 << 20


@runtime_checkable
class NativeStreams(Protocol):
    """What a backend has besides `Backend` when its file system can send. All raise DatasetError."""

    stream_format: ClassVar[str]
    """`zfs` or `btrfs`: which streams these are, and the output format that is made of them."""

    def receive(self, ident: str, fd: int, *, origin: str | None) -> Dataset:
        """A working dataset from a stream, complete or not there at all; it cannot be written to.

        origin: the image that an incremental stream is based on; None for a full stream. `snapshot`
        makes the dataset an image.
        """
        ...

    def send(self, dataset: Dataset, fd: int, *, origin: str | None) -> None:
        """Write a working dataset to `fd`, as what differs from an image or (None) as a whole.

        The dataset must not be written to any more.
        """
        ...

    def guid(self, kind: Kind, ident: str) -> str:
        """What a stream calls this dataset's snapshot."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeJob:
    """What an emitter of native streams needs. origin: the image to be incremental on, None for all; base:
    what is in that, empty for None."""

    streams: NativeStreams
    dataset: Dataset
    origin: str | None
    base: FileList = field(default_factory=dict)


class Flow:
    """One side of a pipe run by a thread of its own, so that signals reach us while the kernel works."""

    def __init__(self, fd: int, job: Callable[[int], None], name: str) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(fd, job), name=name, daemon=True)
        self._thread.start()

    def _run(self, fd: int, job: Callable[[int], None]) -> None:
        try:
            job(fd)
        except BaseException as error:  # noqa: BLE001  (raised again by `check`, in the caller's thread)
            self._error = error
        finally:
            # Only closing our end tells the other side that nothing more comes, or is taken.
            os.close(fd)

    def wait(self) -> None:
        self._thread.join()

    def check(self) -> None:
        """Wait for the end, and raise what the thread raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    with contextlib.suppress(OSError, AttributeError):  # the kernel's default size does as well
        import fcntl

        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return read, write


@contextlib.contextmanager
def producing(job: Callable[[int], None]) -> Iterator[tuple[int, Flow]]:
    """Run `job`, which writes to the descriptor it is given, in a thread; yields the end to read.

    The block must read to the end of file and then `check` the flow. Leaving it early ends the job,
    whose writes fail then.
    """
    read, write = _pipe()
    flow = Flow(write, job, "send")
    try:
        yield read, flow
    finally:
        os.close(read)
        flow.wait()


@contextlib.contextmanager
def consuming(job: Callable[[int], None]) -> Iterator[tuple[int, Flow]]:
    """Run `job`, which reads from the descriptor it is given, in a thread; yields the end to write.

    When the block is left the job sees the end of file; then what it raised is raised, in place of the
    BrokenPipeError that the block may have met because of it.
    """
    read, write = _pipe()
    flow = Flow(read, job, "receive")
    broken: BrokenPipeError | None = None
    try:
        yield write, flow
    except BrokenPipeError as error:
        broken = error
    finally:
        os.close(write)
        flow.wait()
    flow.check()
    if broken is not None:
        raise broken
