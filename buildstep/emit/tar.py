"""The whole tree as one tar file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from buildstep.emit.interface import Artifact, EmitJob, Sink
from buildstep.formats.chunked import PartWriter
from buildstep.formats.codecs import Codec, codec
from buildstep.formats.tar_writer import TarWriter
from buildstep.system.files import Extents
from buildstep.system.output_set import create, seal
from buildstep.tree.entry import Entry

_DEFAULT = "zstd"


class TarEmitter:
    """`.tar.zst`, `.tar.gz`, `.tar.xz`, `.tar.bz2` or `.tar`; GNU tar and bsdtar restore all of it."""

    name: ClassVar[str] = "tar"
    compressions: ClassVar[tuple[str, ...]] = (_DEFAULT, "gzip", "xz", "bzip2", "none")

    def extension(self, compression: str | None) -> str:
        return ".tar" + codec(compression or _DEFAULT).extension

    @contextlib.contextmanager
    def open(self, job: EmitJob, path: Path) -> Iterator[Sink]:
        """See `Emitter`."""
        fd = create(path)
        try:
            chosen = codec(job.compression or _DEFAULT)
            with PartWriter(fd, chosen, what=job.stem.name + ".tar") as out:
                yield _TarSink(job, path, fd, out, chosen)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)


class _TarSink:
    scope: Literal["tree", "layer"] = "tree"

    def __init__(self, job: EmitJob, path: Path, fd: int, out: PartWriter, chosen: Codec) -> None:
        self._bus = job.bus
        self._path = path
        self._fd = fd
        self._out = out
        self._codec = chosen
        self._tar = TarWriter(out, epoch=job.epoch, acl_text=True)

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
        self._bus.count("bytes_compressed", stream.compressed)
        digests = seal(self._fd)
        return Artifact(
            path=self._path,
            format=TarEmitter.name,
            size=digests.size,
            sha1=digests.sha1,
            sha256=digests.sha256,
            compression=self._codec.name,
            extra={"codec": self._codec.ident, "raw_size": stream.raw_size},
        )
