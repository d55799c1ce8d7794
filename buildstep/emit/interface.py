"""The contract between the emitters of image files and the read pass."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from buildstep.events import Bus
from buildstep.formats.codecs import Compression
from buildstep.formats.oci.spec import Descriptor
from buildstep.system.digest import Digests
from buildstep.system.output_set import Outputs, create
from buildstep.tree.diff import Brought, Changes
from buildstep.tree.entry import Entry, FileList


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """A compressed layer on disk. digest and diff_id: hex SHA-256 of it and of its uncompressed tar.

    comment, created_by: what the image's history says of it, "" for what it says of every layer of a build.
    """

    path: Path
    digest: str
    size: int
    diff_id: str
    media_type: str
    comment: str = ""
    created_by: str = ""
    brought: Brought | None = field(default=None, compare=False)
    """What it holds, where that is known."""
    new: bool = field(default=False, compare=False)
    """Whether this process wrote it, so that its digest need not be checked again."""

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(media_type=self.media_type, digest=f"sha256:{self.digest}", size=self.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveStyle:
    """What an archive tells of its entries.

    epoch: latest mtime (s) in it, None for no limit. sparse: whether a file with large holes is a sparse one
    in it, which not every reader takes, instead of plain data.
    """

    epoch: int | None = None
    sparse: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreTarget:
    """Where an image is recorded, for the format that does. url: of the store; ref: the name that will mean
    the image; environ: with credentials and proxies; kept: a directory of this machine for what need not be
    fetched again; notes: what is to be remembered beside the list. outputs, strip: what of the tree is
    recorded, see `selection`; all of it where there are none."""

    url: str
    ref: str
    environ: Mapping[str, str]
    kept: Path | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    strip: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmitJob:
    """One image, ready to be written.

    tree: every entry; root: where their content is. changes: the top layer; comment: what it is, for the
    image's history. layers: the finished ones below it, base first, of which base_layers are the base's;
    more: further ones between those and the top, each made when it is asked for. config: the manifest's
    `build.oci` object. compression: None for each format's default. style: of what is an archive.
    stem: where to write, without extension (`bits/hello/hello-1.0.0`). native: for formats that send a
    dataset. target: for a format that records the image in a store. ref: the name that container engines are
    to give the image, None for NAME:VERSION. origin: where the image comes from, in the words that OCI has
    for it: `source`, `base.name`, `base.digest`. paranoid: hash what is taken from a cache again. main: the
    format whose file the manifest describes. sha1: see `read_pass`.
    """

    tree: FileList
    root: Path
    changes: Changes
    layers: tuple[Blob, ...]
    more: Iterable[Blob] = ()
    base_layers: int = 0
    comment: str = ""
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    base_config: Mapping[str, Any]
    compression: str | None
    style: ArchiveStyle
    created: str
    stem: Path
    bus: Bus
    native: Any = None
    target: StoreTarget | None = None
    ref: str | None = None
    origin: Mapping[str, str] = field(default_factory=dict)
    paranoid: bool = False
    main: str = ""
    sha1: dict[str, str] | None = None

    def need_sha1(self, form: str) -> bool:
        """Tell whether anybody needs the SHA-1 of a format's file: the manifest of the image, of its own."""
        return form == (self.main or form)


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A written image file. compression: of the file as a whole; extra: more for the build record.

    sha1: empty where nobody needs it. Of an image that is a directory, size is the sum of its files, and the
    digests are those of the file that names all others by their digests.
    """

    path: Path
    format: str
    size: int
    sha1: str
    sha256: str
    compression: Compression
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, path: Path, form: str, digests: Digests, compression: Compression, extra: Mapping[str, Any]
    ) -> Artifact:
        """Make the artifact of a finished file."""
        return cls(
            path=path, format=form, size=digests.size, sha1=digests.sha1, sha256=digests.sha256,
            compression=compression, extra=extra,
        )  # fmt: skip


class Sink(Protocol):
    """Takes a tree's entries, in order, during the one read pass over it. scope: which of them it wants."""

    scope: Literal["tree", "layer"]

    def begin(self, entry: Entry) -> None:
        """The next entry; for a file its content follows by `data`."""
        ...

    def data(self, offset: int, chunk: bytes) -> None:
        """Content of the file begun, without gaps; only in a sparse file holes are left out."""
        ...

    def end(self, entry: Entry) -> None: ...

    def finish(self) -> Artifact:
        """Close the file and make it durable under its temporary name; the caller renames it."""
        ...


@runtime_checkable
class Joining(Protocol):
    """A sink whose image is not in its file alone: what is elsewhere appears together with the outputs."""

    def join(self, outputs: Outputs) -> None:
        """Called when every format is complete: add what has to happen at their commit."""
        ...


@runtime_checkable
class Recording(Protocol):
    """An emitter that records the image elsewhere than in its file."""

    def check(self, target: StoreTarget | None, bus: Bus) -> str:
        """Return, for people, where the image will be. Changes nothing.

        Raises StoreError, UsageError or ToolMissing where it cannot be recorded there.
        """
        ...

    def recorded(self, target: StoreTarget | None, facts: Mapping[str, Any], bus: Bus) -> bool:
        """Tell whether what an earlier build recorded is still there. facts: `extra` of its artifact.

        Raises StoreError.
        """
        ...


class Emitter(Protocol):
    """An output format. One file each."""

    name: ClassVar[str]
    compressions: ClassVar[tuple[Compression, ...]]
    """What -c may ask of it, the default first."""
    sends_dataset: ClassVar[bool]
    """Whether the image is the dataset's own stream: then the proto directory has to be copied into it."""
    layered: ClassVar[bool]
    """Whether it is made of compressed layers, which are kept and reused."""
    directory: ClassVar[bool]
    """Whether the image is a directory, not one file."""

    def extension(self, compression: str | None) -> str: ...

    def open(self, job: EmitJob, path: Path) -> AbstractContextManager[Sink]:
        """Return a sink that writes to `path`; leaving the block by an exception removes what is there."""
        ...


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[int]:
    """Create an image file and yield its descriptor; leaving the block by an exception removes the file."""
    fd = create(path)
    try:
        yield fd
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
