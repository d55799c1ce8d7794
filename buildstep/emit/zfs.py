"""`.zfs.gz`: the ZFS stream of the image, against its base's @final snapshot or whole."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from buildstep.emit.interface import EmitJob, Sink
from buildstep.emit.stream import open_stream
from buildstep.formats.codecs import codec


class ZfsEmitter:
    """What `imgadm install` and `zfs receive` take."""

    name: ClassVar[str] = "zfs"
    compressions: ClassVar[tuple[str, ...]] = ("gzip", "none", "bzip2", "xz", "zstd")

    def extension(self, compression: str | None) -> str:
        return ".zfs" + codec(compression or self.compressions[0]).extension

    def open(self, job: EmitJob, path: Path) -> AbstractContextManager[Sink]:
        """See `Emitter`."""
        return open_stream(job, path, form=self.name, default=self.compressions[0])
