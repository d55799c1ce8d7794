"""What the formats of native streams share: a thread reads the stream from the pool and compresses it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from buildstep.emit.interface import Artifact, EmitJob, Sink, new_file
from buildstep.errors import EmitError
from buildstep.formats.chunked import ChunkWriter, Stream
from buildstep.formats.codecs import Codec, Compression, codec
from buildstep.formats.tar_writer import second_of
from buildstep.formats.zfs_stream import BEGIN_SIZE, read_begin
from buildstep.pool.streams import NativeJob, producing
from buildstep.system.files import CHUNK
from buildstep.system.output_set import seal
from buildstep.tree.entry import Entry, FileList


class StreamEmitter:
    """A format whose file is the dataset's stream, as the pool sends it.

    The stream is taken beside the read pass; the sink asks for no more of the tree than a build reads anyway.
    """

    name: ClassVar[str]
    compressions: ClassVar[tuple[Compression, ...]]
    sends_dataset: ClassVar[bool] = True
    layered: ClassVar[bool] = False
    directory: ClassVar[bool] = False

    def extension(self, compression: str | None) -> str:
        return f".{self.name}" + codec(compression or self.compressions[0]).extension

    @contextlib.contextmanager
    def open(self, job: EmitJob, path: Path) -> Iterator[Sink]:
        """See `Emitter`. Raises EmitError in a pool of another kind."""
        native = job.native
        if not isinstance(native, NativeJob) or native.streams.stream_format != self.name:
            raise EmitError(
                f"a {self.name} image can only be made in a {self.name} pool",
                hint=f"give --pool {self.name}:{'DATASET' if self.name == 'zfs' else 'PATH'},"
                " or another --format",
            )
        chosen = codec(job.compression or self.compressions[0])
        _settle_times(job, native.base)
        with new_file(path) as fd, _StreamSink(job, native, path, fd, chosen) as sink:
            yield sink


def _settle_times(job: EmitJob, base: FileList) -> None:
    """Give everything in the dataset the time that an archive has of it: every format is of one tree.

    What a build touches on its way, such as a directory where something came and went, has another time
    there; and a file system keeps parts of seconds. base: what a receiver has. What is as it is there keeps
    those parts: without them an increment would hold every file of the base.
    """
    top = os.fsencode(job.root)
    for path, entry in job.tree.items():
        full = top + b"/" + path if path else top
        second = second_of(entry, job.style.epoch)
        time = second * 1_000_000_000
        old = base.get(path)
        if old is not None and old.mtime == entry.mtime and old.mtime // 1_000_000_000 == second:
            time = old.mtime
        with contextlib.suppress(FileNotFoundError):  # a device, where none could be made
            if os.lstat(full).st_mtime_ns != time:
                os.utime(full, ns=(time, time), follow_symlinks=False)


class _StreamSink:
    scope: Literal["tree", "layer"] = "layer"

    def __init__(self, job: EmitJob, native: NativeJob, path: Path, fd: int, chosen: Codec) -> None:
        self._native = native
        self._form = native.streams.stream_format
        self._what = f"{job.stem.name}.{self._form}"
        self._job = job
        self._path = path
        self._fd = fd
        self._codec = chosen
        self._begin = b""
        self._stream: Stream | None = None
        self._error: BaseException | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._pump, name="stream", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()

    # The entries of the read pass are not needed: the pool knows what is in the dataset.

    def begin(self, entry: Entry) -> None:
        pass

    def data(self, offset: int, chunk: bytes) -> None:
        pass

    def end(self, entry: Entry) -> None:
        pass

    def _pump(self) -> None:
        native = self._native
        try:
            with (
                ChunkWriter(self._fd, self._codec, what=self._what) as out,
                producing(lambda fd: native.streams.send(native.dataset, fd, origin=native.origin)) as (
                    read,
                    flow,
                ),
                os.fdopen(read, "rb", buffering=CHUNK, closefd=False) as source,
            ):
                while not self._stop and (chunk := source.read(CHUNK)):
                    if len(self._begin) < BEGIN_SIZE:
                        self._begin += chunk[:BEGIN_SIZE]
                    out.write(chunk)
                if not self._stop:
                    flow.check()
                    self._stream = out.close()
        except BaseException as error:  # noqa: BLE001  (raised again by `finish`)
            self._error = error

    def finish(self) -> Artifact:
        self._thread.join()
        if self._error is not None:
            raise self._error
        stream = self._stream
        assert stream is not None
        self._job.bus.count("bytes_compressed", stream.compressed)
        extra = {"codec": self._codec.ident, "raw_size": stream.raw_size, **self._metadata()}
        sealed = seal(self._fd, sha1=self._job.need_sha1(self._form), sha256=stream.sha256)
        return Artifact.of(self._path, self._form, sealed, self._codec.name, extra)

    def _metadata(self) -> Mapping[str, Any]:
        """Return what a consumer must know to receive the stream."""
        origin = self._native.origin
        found: dict[str, Any] = {"incremental": origin is not None}
        if origin is not None:
            found["origin"] = origin
        if self._form == "zfs":
            begin = read_begin(self._begin)
            assert bool(begin.from_guid) == found["incremental"]
            found["dataset_guid"] = str(begin.guid)
        return found
