"""The plug points as Protocols, and the values that pass between the drivers behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, ClassVar, Literal, Protocol

from buildstep.events import Bus
from buildstep.system.root import Root
from buildstep.tree.diff import Changes
from buildstep.tree.entry import Entry, FileList

# -- datasets ------------------------------------------------------------------------------------------


class Kind(StrEnum):
    """What a dataset of a pool is. Only builds are written to; images and layers never change."""

    IMAGE = "image"
    LAYER = "layer"
    BUILD = "build"


class Dataset(Protocol):
    """A writable tree in a pool, for the length of an import or a build.

    ident: its name in the pool (a build id). path: where its tree is on the agent, mounted.
    """

    @property
    def ident(self) -> str: ...

    @property
    def path(self) -> Path: ...

    def scan(self, base: FileList, *, owner: Callable[[Entry], tuple[int, int]] | None) -> FileList:
        """The tree as it is now; `base` is the list of what it was cloned from. Changed files unhashed."""
        ...


class Backend(Protocol):
    """Where datasets live. One file per kind of pool; all of them pass the same contract test.

    A working dataset becomes permanent by `snapshot`, which consumes it. Nothing but `destroy` removes,
    and it removes only what carries our mark. Every method raises DatasetError.
    """

    scheme: ClassVar[str]
    """The first part of a pool URI, as in overlay:/var/lib/buildstep."""

    @property
    def uri(self) -> str: ...

    @property
    def state(self) -> Path:
        """A directory of the pool for records, locks, journals and caches."""
        ...

    @property
    def cheap_clone(self) -> bool:
        """Whether a clone costs the same whatever the size of its origin."""
        ...

    @property
    def privileged(self) -> bool:
        """Whether owners and device nodes can be set in its trees."""
        ...

    def create(self, ident: str) -> Dataset:
        """An empty working dataset, for an import."""
        ...

    def clone(self, kind: Kind, origin: str, ident: str) -> Dataset:
        """A working dataset that starts as a copy of an image or a layer."""
        ...

    def snapshot(self, dataset: Dataset, kind: Kind, ident: str) -> None:
        """Make a working dataset an image or a layer; it can no longer be written to."""
        ...

    def exists(self, kind: Kind, ident: str) -> bool: ...

    def idents(self, kind: Kind) -> list[str]: ...

    def tree(self, kind: Kind, ident: str) -> AbstractContextManager[Path]:
        """A read-only view of a permanent dataset's tree."""
        ...

    def destroy(self, kind: Kind, ident: str) -> None:
        """Remove a dataset; nothing is done when it is not there."""
        ...


# -- sandbox and installers -----------------------------------------------------------------------------


class Sandbox(Protocol):
    """An image's root, entered: commands run inside it, in namespaces of their own."""

    @property
    def root(self) -> Root: ...

    def run(
        self,
        argv: Sequence[str],
        *,
        network: bool = False,
        env: Mapping[str, str] | None = None,
        ok: Sequence[int] = (0,),
        what: str = "",
    ) -> str:
        """Run a command in the root and return its standard output. Every line is an event as well.

        Raises CommandFailed. When it returns, no process that the command started is left.
        """
        ...

    def share(self, source: Path, target: str) -> AbstractContextManager[None]:
        """Show a directory of the agent, writable, at a path inside, for the length of a block."""
        ...

    def lend(self, target: str, content: bytes, *, mode: int = 0o644) -> AbstractContextManager[None]:
        """Put a file at a path inside for the length of a block; what was there comes back."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """An installed package."""

    name: str
    version: str
    arch: str = ""
    source: str = ""
    license: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that an audit found."""

    package: str
    version: str
    problem: str
    url: str = ""
    severity: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallOptions:
    """What an installer is told. cache: a directory on the agent that outlives the build; hurry: there is
    an answer from before, so do not wait long for a server; max_age: for how many seconds an index that was
    fetched is good enough; fetched: all that an install needs was downloaded.
    """

    cache: Path
    recommends: bool = False
    mirror: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    hurry: bool = False
    max_age: float = 0.0
    fetched: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """What would be installed, by package: its version, or "" for one that would be removed.

    exact: whether everything that would change is there; else only what was asked for is, if that.
    order: the acts of an install as they would follow one another, each with its package (`Inst make`).
    """

    versions: Mapping[str, str]
    exact: bool
    order: tuple[str, ...] = ()


class Installer(Protocol):
    """A package manager inside an image. Every method may raise InstallError."""

    name: ClassVar[str]

    @classmethod
    def detect(cls, root: Root) -> bool:
        """Whether this package manager is in the root."""
        ...

    def prepare(self, sandbox: Sandbox, options: InstallOptions) -> AbstractContextManager[None]:
        """What the other methods need around them: caches shown, services kept from starting."""
        ...

    def refresh(self, sandbox: Sandbox, options: InstallOptions) -> float:
        """Fetch the repository's index, if it is not young enough; when it was, in seconds since 1970."""
        ...

    def index(self, sandbox: Sandbox, options: InstallOptions) -> str:
        """A digest of the index as it was last fetched: equal, and nothing has another version.

        Empty where there is none to be had.
        """
        ...

    def resolve(
        self, sandbox: Sandbox, packages: Sequence[str], options: InstallOptions, *, upgrade: bool
    ) -> Resolution:
        """What an install (after an upgrade, if `upgrade`) would bring; changes nothing."""
        ...

    def fetch(
        self,
        sandbox: Sandbox,
        packages: Sequence[str],
        options: InstallOptions,
        versions: Mapping[str, str] | None,
    ) -> None:
        """Download what an install of these packages needs. versions: what it would bring, if known: where
        all of it is there, nothing is asked for."""
        ...

    def obstacle(
        self, sandbox: Sandbox, added: Mapping[str, str], base: FileList, options: InstallOptions
    ) -> str:
        """Why packages that were fetched (version by name) cannot be installed after those in the root with
        the same result as all of them at once; empty if they can. base: the root before any of them."""
        ...

    def beyond(self, root: Root, added: Sequence[Package], changed: Sequence[str]) -> str:
        """What changed besides the files of the added packages and the package manager's own books; empty
        if nothing did. Paths start with a slash."""
        ...

    def upgrade(self, sandbox: Sandbox, options: InstallOptions) -> None: ...

    def install(self, sandbox: Sandbox, packages: Sequence[str], options: InstallOptions) -> None: ...

    def installed(self, sandbox: Sandbox) -> list[Package]:
        """What is installed, sorted by name."""
        ...

    def audit(self, sandbox: Sandbox, options: InstallOptions) -> tuple[str, list[Finding]] | None:
        """The audit tool's text and its findings; None when the image has no such tool."""
        ...

    def clean(self, sandbox: Sandbox) -> None:
        """Let the package manager remove its own caches from the image."""
        ...


# -- image sources -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What an image reference means before anything is fetched.

    key: the same for the same content (such as `tar:sha256:...`), what the store looks up.
    """

    key: str
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceImage:
    """What a source put into a dataset. manifest: what it knows (may lack name, version, uuid)."""

    manifest: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[Package, ...] = ()
    entries: FileList | None = None
    """The true entries, where the agent could not set owners or make nodes."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """An OCI image configuration that came with it."""


class Source(Protocol):
    """Where base images come from. One file per scheme."""

    scheme: ClassVar[str]

    def identify(self, locator: str, hasher: Callable[[Path], str]) -> Identity:
        """Cheap and without change. hasher: SHA-256 of a file, remembered between builds.

        Raises ImageError when there is no such image.
        """
        ...

    def fetch(self, locator: str, into: Path, context: SourceContext) -> SourceImage:
        """Write the image's tree into an empty directory."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceContext:
    """What a source may use. privileged: owners can be set.

    cache: a directory for this import alone. downloads: one that outlives a failed import of the same
    image, for files that are proved before they are used. unpack: extract a tar stream, compressed or
    not, into a directory, safely; returns its true entries. apply_layer: lay a layer, whiteouts included,
    over a directory that holds the entries given; returns those of the result.
    """

    cache: Path
    downloads: Path
    privileged: bool
    bus: Bus
    environ: Mapping[str, str]
    unpack: Callable[[IO[bytes], Path], FileList]
    apply_layer: Callable[[IO[bytes], Path, FileList], FileList]


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
