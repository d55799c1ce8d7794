"""The contract of base image sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from buildstep.cache.base_layers import BaseLayer
from buildstep.events import Bus
from buildstep.rootfs.interface import Package
from buildstep.spec.lock import MadeOf
from buildstep.system.files import Slice
from buildstep.tree.entry import FileList

if TYPE_CHECKING:
    from buildstep.images.locked import LockedImage

# -- image sources -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What an image reference means, known before anything is fetched.

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
    """The true entries, where this machine could not set owners or make nodes."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """An OCI image configuration that came with it."""
    layers: tuple[LayerFile, ...] = ()
    """Its layers as they came, lowest first; none where it has none, or an OCI image cannot have them."""
    made_of: MadeOf | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerFile:
    """A layer that came with an image. own: the file is nothing else, and the store may move it."""

    layer: BaseLayer
    place: Slice
    own: bool = False


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


@runtime_checkable
class Foreseeing(Protocol):
    """A source that knows of more that can be wrong than that there is no such image."""

    def foresee(self, locator: str) -> None:
        """Cheap and without change. Raises ToolMissing where this machine cannot make the image."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceContext:
    """What a source may use. privileged: owners can be set.

    cache: a directory for this import alone. downloads: one that outlives a failed import of the same
    image, for files that are verified before they are used. unpack: extract a tar stream, compressed or
    not, into a directory, safely; returns its true entries. apply_layer: lay a layer, whiteouts included,
    over a directory that holds the entries given; returns those of the result.

    packages: the cache of Debian's package files, if there is one; locked: what the image has to be, if that
    is settled.
    """

    cache: Path
    downloads: Path
    privileged: bool
    bus: Bus
    environ: Mapping[str, str]
    unpack: Callable[[IO[bytes], Path], FileList]
    apply_layer: Callable[[IO[bytes], Path, FileList], FileList]
    packages: Path | None = None
    locked: LockedImage | None = None
