"""`.btrfs.zst`: the btrfs stream of the image, against its base image or complete."""

from __future__ import annotations

from typing import ClassVar

from buildstep.emit.stream import StreamEmitter
from buildstep.formats.codecs import Compression


class BtrfsEmitter(StreamEmitter):
    """What `btrfs receive` takes."""

    name: ClassVar[str] = "btrfs"
    compressions: ClassVar[tuple[Compression, ...]] = ("zstd", "none", "gzip", "bzip2", "xz")
