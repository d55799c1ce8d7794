"""The contracts of checks: what a rule looks at, and what it finds."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, cast

from buildstep.checks.image import Image, Test
from buildstep.checks.image_tree import ImageTree
from buildstep.system.process import SAFE_PATH
from buildstep.tree.entry import Entry, FileList

if TYPE_CHECKING:
    from buildstep.checks.secrets import Looking


class Found(NamedTuple):
    """Something that a rule found. path: in the image, without a leading slash; text: what is wrong there;
    grave: False where it is a warning at most."""

    path: bytes
    text: str
    grave: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A finished image, as rules see it.

    tree: all of it; base: what it was made from, by path in the tree; added: what is new or differs from the
    base; own: whether a path is what this build brought, and not a package of a distribution; users, groups:
    the numbers in the image's own tables, None without one; budget: how many bytes the tree may have.
    top: where the tree's files are on this machine; path: the PATH that the image is run with; host_paths:
    places of the CI host that no file should name; secrets: what to look for besides, None for nothing;
    settings: how the image is run, as text, in which that is looked for too; seen: digests of files in which
    none of that is; clean: takes the digests of those in which there is none now.
    """

    tree: ImageTree
    base: FileList
    added: Sequence[Entry]
    own: Callable[[bytes], bool]
    users: Container[int] | None = None
    groups: Container[int] | None = None
    budget: int | None = None
    top: Path = Path()
    path: str = SAFE_PATH
    host_paths: Sequence[str] = ()
    secrets: Looking | None = None
    settings: bytes = b""
    seen: Container[bytes] = frozenset()
    clean: set[bytes] = field(default_factory=set)
    told: dict[str, list[Found]] = field(default_factory=dict)
    """What the rules of texts found: they look through each file together, once."""
    _rows: list[tuple[bytes, Entry]] = field(default_factory=list)

    def files(self) -> Sequence[tuple[bytes, Entry]]:
        """Return what was added, each with its path in the image."""
        if not self._rows:
            rows = ((self.tree.inside(entry.path), entry) for entry in self.added)
            self._rows.extend((path, entry) for path, entry in rows if path is not None)
        return self._rows

    def read(self, entry: Entry, most: int) -> bytes:
        """Return the beginning of a regular file of the tree; one that is gone is empty."""
        try:
            # A tree is only written to by a build, which waits: a pipe cannot have taken the file's place.
            fd = os.open(self._where(entry), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.read(fd, most)
        finally:
            os.close(fd)

    def open(self, entry: Entry) -> IO[bytes]:
        """Open a regular file of the tree; one that is gone is empty."""
        try:
            return os.fdopen(os.open(self._where(entry), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
        except OSError:
            return io.BytesIO()

    def _where(self, entry: Entry) -> bytes:
        return entry.source or os.fsencode(self.top) + b"/" + entry.path


Finder = Callable[[Subject], Iterable[Found]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table. place: `module:function` of this room; of_packages: whether what packages of a
    distribution brought is told as well, as a note that fails nothing."""

    name: str
    about: str
    place: str
    of_packages: bool = True

    def load(self) -> Finder:
        """Import the function that finds what is against the rule."""
        module, _, name = self.place.partition(":")
        return cast("Finder", getattr(import_module(f"{__package__}.{module}"), name))


Prover = Callable[[Test, Image], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of test. key: in `build.checks`; group: what it is called; place: `module:function` of this
    room, which yields why a test fails."""

    key: str
    group: str
    place: str

    def load(self) -> Prover:
        """Import the function that does such a test."""
        module, _, name = self.place.partition(":")
        return cast("Prover", getattr(import_module(f"{__package__}.{module}"), name))
