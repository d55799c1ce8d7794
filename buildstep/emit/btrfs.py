"""`.btrfs.zst`: the btrfs stream of the image, against its base image or whole."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from buildstep.emit.interface import EmitJob, Sink
from buildstep.emit.stream import open_stream
from buildstep.formats.codecs import codec


class BtrfsEmitter:
    """What `btrfs receive` takes."""

    name: ClassVar[str] = "btrfs"
    compressions: ClassVar[tuple[str, ...]] = ("zstd", "none", "gzip", "bzip2", "xz")

    def extension(self, compression: str | None) -> str:
        return ".btrfs" + codec(compression or self.compressions[0]).extension

    def open(self, job: EmitJob, path: Path) -> AbstractContextManager[Sink]:
        """See `Emitter`."""
        return open_stream(job, path, form=self.name, default=self.compressions[0])
