"""`.zfs.gz`: the ZFS stream of the image, against its base's @final snapshot or complete."""

from __future__ import annotations

from typing import ClassVar

from buildstep.emit.stream import StreamEmitter
from buildstep.formats.codecs import Compression


class ZfsEmitter(StreamEmitter):
    """What `imgadm install` and `zfs receive` take."""

    name: ClassVar[str] = "zfs"
    compressions: ClassVar[tuple[Compression, ...]] = ("gzip", "none", "bzip2", "xz", "zstd")
