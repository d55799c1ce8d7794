"""What the formats of native streams share: a thread takes the stream from the pool and compresses it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from buildstep.emit.interface import Artifact, EmitJob, Sink
from buildstep.errors import EmitError
from buildstep.formats.chunked import PartWriter, Stream
from buildstep.formats.codecs import Codec, codec
from buildstep.formats.zfs_stream import BEGIN_SIZE, read_begin
from buildstep.pool.streams import NativeJob, NativeStreams, producing
from buildstep.system.files import CHUNK
from buildstep.system.output_set import create, seal
from buildstep.tree.entry import Entry


@contextlib.contextmanager
def open_stream(job: EmitJob, path: Path, *, form: str, default: str) -> Iterator[Sink]:
    """A sink for the format `form`, whose file has all of the stream when it is finished.

    The stream does not come from the read pass: it is taken beside it, and the sink asks for no more of
    the tree than what a build reads in any case.
    """
    native = job.native
    streams = native.streams if isinstance(native, NativeJob) else None
    if (
        not isinstance(native, NativeJob)
        or not isinstance(streams, NativeStreams)
        or streams.stream_format != form
    ):
        raise EmitError(
            f"a {form} image can only be made in a {form} pool",
            hint=f"give --pool {form}:{'DATASET' if form == 'zfs' else 'PATH'}, or another --format",
        )
    fd = create(path)
    try:
        with _StreamSink(job, native, path, fd, codec(job.compression or default)) as sink:
            yield sink
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


class _StreamSink:
    scope: Literal["tree", "layer"] = "layer"

    def __init__(self, job: EmitJob, native: NativeJob, path: Path, fd: int, chosen: Codec) -> None:
        self._native = native
        self._form = native.streams.stream_format
        self._what = f"{job.stem.name}.{self._form}"
        self._bus = job.bus
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

    # The read pass has nothing to tell us: the pool knows what is in the dataset.

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
                PartWriter(self._fd, self._codec, what=self._what) as out,
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
        self._bus.count("bytes_compressed", stream.compressed)
        digests = seal(self._fd)
        return Artifact(
            path=self._path,
            format=self._form,
            size=digests.size,
            sha1=digests.sha1,
            sha256=digests.sha256,
            compression=self._codec.name,
            extra={"codec": self._codec.ident, "raw_size": stream.raw_size, **self._told()},
        )

    def _told(self) -> Mapping[str, Any]:
        """What a consumer must know to receive it."""
        native = self._native
        told: dict[str, Any] = {"incremental": native.origin is not None}
        if native.origin is not None:
            told["origin"] = native.origin
        if self._form == "zfs":
            begin = read_begin(self._begin)
            assert bool(begin.from_guid) == told["incremental"]
            told["dataset_guid"] = str(begin.guid)
        return told
