"""What an image is made of, in terms of no format: the parts that a bill of materials is written from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from buildstep.tree.entry import FileList

Hashes = Mapping[str, str]
"""Name of a hash ("sha256", "sha1", "md5", "sha512"), to its value in hex."""

Kind = Literal["deb", "pkgsrc", "apk", "rpm", "pypi", "npm", "golang", "cargo", "elf", "file"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a path came from. step: of the build, such as `packages`, "base" for what the base image had,
    empty where that is not known; layer: its number in the image, from 0, None where there are none."""

    step: str = ""
    layer: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class License:
    """What is said of a component's licence. expression: of SPDX, empty for unknown; texts: what each
    LicenseRef- in it stands for."""

    expression: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """A package, or another part with a name.

    purl: its package URL; source, source_version: the source package that vulnerabilities are told of, empty
    where it has none; depends: refs of the components that it needs; hashes: of the package's own file, where
    it is known; files: paths that it owns, without a leading slash; location: the path of the file that told
    of it; properties: what no standard field has.
    """

    kind: Kind
    name: str
    version: str = ""
    arch: str = ""
    purl: str = ""
    source: str = ""
    source_version: str = ""
    supplier: str = ""
    homepage: str = ""
    description: str = ""
    copyright: str = ""
    license: License = field(default_factory=License)
    depends: tuple[str, ...] = ()
    hashes: Hashes = field(default_factory=dict)
    files: tuple[bytes, ...] = ()
    location: bytes = b""
    others: tuple[bytes, ...] = ()
    origin: Origin = field(default_factory=Origin)
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def ref(self) -> str:
        """What names it in one inventory."""
        return self.purl or f"{self.kind}:{self.name}@{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnFile:
    """A file that no package owns. path: without a leading slash; hashes: SHA-256 of its content, and SHA-1
    where it was asked for, which SPDX 2.3 demands of every file that is listed, and nothing else has."""

    path: bytes
    size: int
    hashes: Hashes
    origin: Origin = field(default_factory=Origin)

    @property
    def sha256(self) -> Hashes:
        """The hash that every format has."""
        return {name: value for name, value in self.hashes.items() if name == "sha256"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Distro:
    """The operating system of an image, as its os-release has it. id: such as "debian"; version: "12"."""

    id: str = ""
    version: str = ""
    codename: str = ""
    name: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """The base image. digest: `sha256:HEX` of a registry's image, empty for others; tree_digest: of its file
    list, in hex."""

    label: str
    name: str = ""
    version: str = ""
    digest: str = ""
    tree_digest: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """All of an image.

    name, version, description: its own; digests: what names it, such as {"oci": "sha256:HEX", "tree": "HEX"};
    unknown: what is in it that could not be read, a sentence each; complete: whether all its packages are
    known. created: seconds since 1970, None where it has no time of its own (SOURCE_DATE_EPOCH is not set).
    layers: their digests, lowest first. known_from: the build that made it, or a look at the finished image.
    """

    name: str
    version: str = ""
    description: str = ""
    supplier: str = ""
    distro: Distro = field(default_factory=Distro)
    base: Base | None = None
    components: tuple[Component, ...] = ()
    files: tuple[OwnFile, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    complete: bool = True
    created: int | None = None
    layers: tuple[str, ...] = ()
    known_from: Literal["build", "image"] = "build"


class Source(Protocol):
    """An image that is read for its inventory: a finished tree in a build, or the layers of an archive."""

    @property
    def entries(self) -> FileList:
        """All paths, without a leading slash, each with its entry. Files need not be hashed yet."""
        ...

    def read(self, path: bytes, limit: int) -> bytes | None:
        """Return a regular file's content, links followed within the image; None where there is none of at
        most `limit` bytes."""
        ...

    def head(self, path: bytes, size: int) -> bytes:
        """Return the first bytes of a regular file; empty where there is none."""
        ...

    def sha256(self, paths: Iterable[bytes]) -> Mapping[bytes, str]:
        """Return the SHA-256 in hex of regular files, hashed where that is not known yet."""
        ...

    def sha1(self, paths: Iterable[bytes]) -> Mapping[bytes, str]:
        """Return the SHA-1 in hex of regular files: of those that no package owns, where a document lists
        them; none where nobody wants it."""
        ...

    def origin(self, path: bytes) -> Origin:
        """Return where a path came from."""
        ...
