"""The contract between the emitters of image files and the read pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from buildstep.events import Bus
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry, FileList

# -- emitters --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """A compressed layer on disk. digest and diff_id: hex SHA-256 of it and of its uncompressed tar."""

    path: Path
    digest: str
    size: int
    diff_id: str
    media_type: str
    comment: str = ""
    new: bool = field(default=False, compare=False)
    """Whether this process wrote it, and so knows its digest of what it wrote."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmitJob:
    """One image, ready to be written.

    tree: every entry, root: where their content is. changes: the top layer, against `layers`, which are
    the finished ones below it, base first, and then `more`, which are made when they are asked for. epoch:
    latest mtime (s) allowed in the image, None for no limit. stem: where to write, without extension
    (`bits/hello/hello-1.0.0`). config: the manifest's `build.oci` object. level: None for the codec's own.
    native: for formats that send a dataset.
    """

    tree: FileList
    root: Path
    changes: Changes
    layers: tuple[Blob, ...]
    more: Iterable[Blob] = ()
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    base_config: Mapping[str, Any]
    compression: str | None
    epoch: int | None
    created: str
    stem: Path
    bus: Bus
    history: tuple[str, ...] = ()
    native: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A written image file. compression: as imgmanifest names it for the file as a whole."""

    path: Path
    format: str
    size: int
    sha1: str
    sha256: str
    compression: Literal["gzip", "bzip2", "xz", "zstd", "none"]
    extra: Mapping[str, Any] = field(default_factory=dict)


class Sink(Protocol):
    """Takes a tree's entries, in order, during the one read pass over it."""

    scope: Literal["tree", "layer"]

    def begin(self, entry: Entry) -> None:
        """The next entry; for a file its content follows by `data`."""
        ...

    def data(self, offset: int, chunk: bytes) -> None:
        """Content of the file begun; holes are left out."""
        ...

    def end(self, entry: Entry) -> None: ...

    def finish(self) -> Artifact:
        """Close and make durable, still under a temporary name; the caller renames."""
        ...


class Emitter(Protocol):
    """An output format. One file each."""

    name: ClassVar[str]
    compressions: ClassVar[tuple[str, ...]]
    """What -c may ask of it, the default first."""

    def extension(self, compression: str | None) -> str: ...

    def open(self, job: EmitJob, path: Path) -> AbstractContextManager[Sink]:
        """A sink that writes to `path`; leaving the block by an exception removes it."""
        ...
