"""The contract of pool backends and their datasets."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol

from buildstep.tree.entry import Entry, FileList

# -- datasets ------------------------------------------------------------------------------------------


class Kind(StrEnum):
    """What a dataset of a pool is. Only builds are written to; images and layers never change."""

    IMAGE = "image"
    LAYER = "layer"
    BUILD = "build"


class Dataset(Protocol):
    """A writable tree in a pool, for the length of an import or a build.

    ident: its name in the pool (a build id). path: where its tree is on this machine, mounted.
    """

    @property
    def ident(self) -> str: ...

    @property
    def path(self) -> Path: ...

    @property
    def kept_at(self) -> str:
        """Where a person finds its content after the build, if it is kept."""
        ...

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
    def wall(self) -> Path:
        """The directory above all of the pool's files and trees; nobody but its owner may enter it."""
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

    def scratch(self, dataset: Dataset) -> AbstractContextManager[Path]:
        """A view of a working dataset that can be written to; when it is left, what was written is gone.

        Nothing may change the dataset itself meanwhile.
        """
        ...

    def exists(self, kind: Kind, ident: str) -> bool: ...

    def idents(self, kind: Kind) -> list[str]: ...

    def tree(self, kind: Kind, ident: str) -> AbstractContextManager[Path]:
        """A read-only view of a permanent dataset's tree."""
        ...

    def destroy(self, kind: Kind, ident: str) -> None:
        """Remove a dataset; nothing is done when it is not there."""
        ...
