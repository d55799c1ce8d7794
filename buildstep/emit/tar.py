"""Write the whole tree as one tar file (POSIX.1-2017 pax)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from buildstep.emit.interface import Artifact, EmitJob, Sink, new_file
from buildstep.formats.chunked import ChunkWriter
from buildstep.formats.codecs import Codec, Compression, codec
from buildstep.formats.tar_writer import TarWriter
from buildstep.system.files import Extents
from buildstep.system.output_set import seal
from buildstep.tree.entry import Entry

_DEFAULT: Compression = "zstd"


class TarEmitter:
    """`.tar.zst`, `.tar.gz`, `.tar.xz`, `.tar.bz2` or `.tar`; GNU tar and bsdtar restore all of it."""

    name: ClassVar[str] = "tar"
    compressions: ClassVar[tuple[Compression, ...]] = (_DEFAULT, "gzip", "xz", "bzip2", "none")
    sends_dataset: ClassVar[bool] = False
    layered: ClassVar[bool] = False
    directory: ClassVar[bool] = False

    def extension(self, compression: str | None) -> str:
        return ".tar" + codec(compression or _DEFAULT).extension

    @contextlib.contextmanager
    def open(self, job: EmitJob, path: Path) -> Iterator[Sink]:
        """See `Emitter`."""
        chosen = codec(job.compression or _DEFAULT)
        with new_file(path) as fd, ChunkWriter(fd, chosen, what=job.stem.name + ".tar") as out:
            yield _TarSink(job, path, fd, out, chosen)


class _TarSink:
    scope: Literal["tree", "layer"] = "tree"

    def __init__(self, job: EmitJob, path: Path, fd: int, out: ChunkWriter, chosen: Codec) -> None:
        self._job = job
        self._path = path
        self._fd = fd
        self._out = out
        self._codec = chosen
        self._tar = TarWriter(out, epoch=job.style.epoch, acl_text=True)

    def begin(self, entry: Entry) -> None:
        self._tar.begin(entry)

    def begin_sparse(self, entry: Entry, extents: Extents) -> None:
        self._tar.begin_sparse(entry, extents)

    def data(self, offset: int, chunk: bytes) -> None:
        self._tar.data(offset, chunk)

    def end(self, entry: Entry) -> None:
        self._tar.end(entry)

    def finish(self) -> Artifact:
        self._tar.finish()
        stream = self._out.close()
        self._job.bus.count("bytes_compressed", stream.compressed)
        extra = {"codec": self._codec.ident, "raw_size": stream.raw_size}
        sealed = seal(self._fd, sha1=self._job.need_sha1(TarEmitter.name), sha256=stream.sha256)
        return Artifact.of(self._path, TarEmitter.name, sealed, self._codec.name, extra)
