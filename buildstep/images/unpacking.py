"""Unpacking of archives and layers, with a job that shows how far it is."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import IO, Any, Concatenate, ParamSpec, cast

from buildstep.events import Bus, Reading
from buildstep.system.digest import HashingReader
from buildstep.system.files import SliceReader
from buildstep.tree.entry import FileList

P = ParamSpec("P")
Unpack = Callable[Concatenate[IO[bytes], P], FileList]


def shown(unpack: Unpack[P], bus: Bus, *, layers: bool = False) -> Unpack[P]:
    """Return what unpacks archives as jobs of a bus. layers: they are those of one image, and numbered."""
    count = itertools.count(1)

    def watched(stream: IO[bytes], /, *args: P.args, **kwargs: P.kwargs) -> FileList:
        read, number = _Watched(stream), next(count)
        title = f"unpack layer {number}" if layers else "unpack the image"
        with bus.job(title, _size(stream), read=lambda: Reading(read.position)):
            return unpack(cast(IO[bytes], read), *args, **kwargs)

    return watched


class _Watched:
    """An archive that is being read, and how much of it was."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.position = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self.position += len(data)
        return data

    def __getattr__(self, name: str) -> Any:
        # What a stream can beside being read: `interrupt`, `fileno`.
        return getattr(self._stream, name)


def _size(stream: Any) -> int:
    """Return how many bytes a stream has; 0 where that is not known."""
    if isinstance(size := getattr(stream, "size", None), int):
        return size
    if isinstance(stream, HashingReader):
        return _size(stream.source)
    if isinstance(stream, SliceReader):
        return len(stream)
    try:
        return os.fstat(stream.fileno()).st_size
    except (AttributeError, OSError):
        return 0
