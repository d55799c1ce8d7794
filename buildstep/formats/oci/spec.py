"""The OCI image formats, as registries and layouts share them: descriptors, platforms, reading a layout."""

from __future__ import annotations

import contextlib
import json
import platform as host
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, cast

from buildstep.errors import ImageError
from buildstep.tree.entry import FileList

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})

REF_NAME = "org.opencontainers.image.ref.name"
MAX_DOCUMENT = 4 << 20
"""Bytes of a manifest, an index or a configuration; registries allow no more."""

_LAYER = re.compile(
    r"application/vnd\.(oci\.image\.layer\.(nondistributable\.)?v1\.tar(\+(gzip|zstd))?"
    r"|docker\.image\.rootfs\.(foreign\.)?diff\.tar(\.(gzip|zstd))?)"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MACHINES = {
    "x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "armv6l": "arm/v6",
    "i686": "386", "i386": "386", "i86pc": "amd64",
}  # fmt: skip

ApplyLayer = Callable[[IO[bytes], Path, FileList], FileList]
"""Applies a layer's tar stream, compressed or not, to the tree in a directory, whiteouts included.

It is given the true entries of the layers below, and returns those with the layer applied.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """What an image runs on, as the formats name it."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """`linux/arm64/v8`. Raises ImageError."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(re.fullmatch(r"[a-z0-9_.-]+", part) for part in parts):
            raise ImageError(f"{text!r} is not a platform", hint="such as linux/amd64 or linux/arm/v7")
        return cls(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) == 3 else "")

    @classmethod
    def here(cls) -> Platform:
        """The agent's own."""
        machine = host.machine().lower()
        return cls.parse(f"linux/{_MACHINES.get(machine, machine)}")

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptor:
    """A piece of content by its digest (`sha256:...`)."""

    media_type: str
    digest: str
    size: int
    platform: Mapping[str, Any] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def hex(self) -> str:
        return self.digest.removeprefix("sha256:")


@dataclass(frozen=True, kw_only=True, slots=True)
class OciImage:
    """One platform's image: its manifest as it is, and what that names."""

    manifest: Descriptor
    document: bytes
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)


def descriptor(value: object, where: str) -> Descriptor:
    """A descriptor out of a document. Raises ImageError for one that cannot be trusted."""
    if isinstance(value, dict):
        kind, digest, size = value.get("mediaType", ""), value.get("digest"), value.get("size")
        if (
            isinstance(kind, str)
            and isinstance(digest, str)
            and _DIGEST.fullmatch(digest)
            and isinstance(size, int)
            and size >= 0
        ):
            return Descriptor(
                media_type=kind,
                digest=digest,
                size=size,
                platform=_mapping(value.get("platform")),
                annotations=_mapping(value.get("annotations")),
            )
        if isinstance(digest, str) and not _DIGEST.fullmatch(digest):
            raise ImageError(
                f"{where}: {digest[:80]!r} is not a sha256 digest", hint="only sha256 is supported"
            )
    raise ImageError(f"{where}: not a descriptor with mediaType, digest and size")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def document(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object. Raises ImageError."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ImageError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ImageError(f"{where} is not a JSON object")
    return value


def choose(entries: Sequence[Descriptor], wanted: Platform, where: str) -> Descriptor:
    """The entry of an index for a platform. Raises ImageError that names what there is."""
    fits = []
    for entry in entries:
        there = entry.platform
        if not there or entry.annotations.get("vnd.docker.reference.type"):  # an attestation, not an image
            continue
        if (there.get("os"), there.get("architecture")) == (wanted.os, wanted.architecture):
            variant = str(there.get("variant", ""))
            exact = variant == wanted.variant
            default = not wanted.variant and variant in ("v8", "")
            if exact or default or not variant:
                fits.append((not exact, entry))
    if fits:
        return min(fits, key=lambda pair: pair[0])[1]
    if len(entries) == 1 and not entries[0].platform:
        return entries[0]
    names = ", ".join(
        "/".join(str(e.platform[k]) for k in ("os", "architecture", "variant") if e.platform.get(k))
        for e in entries
        if e.platform
    )
    raise ImageError(
        f"{where} has no image for {wanted}", hint=f"it has {names or 'none that tells its platform'}"
    )


def parse_index(data: bytes, where: str) -> list[Descriptor]:
    """The entries of an index or manifest list. Raises ImageError."""
    rows = document(data, where).get("manifests")
    if not isinstance(rows, list):
        raise ImageError(f"{where} is not an index of images")
    return [descriptor(row, f"{where} manifests[{i}]") for i, row in enumerate(rows)]


def parse_manifest(data: bytes, entry: Descriptor, where: str) -> OciImage:
    """An image's manifest. Raises ImageError, also for what is no root file system."""
    value = document(data, where)
    kind = value.get("mediaType", entry.media_type)
    if value.get("schemaVersion") != 2 or kind not in MANIFESTS:
        raise ImageError(
            f"{where} is of type {kind or 'unknown'}, not an OCI or Docker v2 image",
            hint="images of schema 1 have to be pushed again by a newer tool",
        )
    rows = value.get("layers")
    if not isinstance(rows, list):
        raise ImageError(f"{where} has no layers")
    layers = tuple(descriptor(row, f"{where} layers[{i}]") for i, row in enumerate(rows))
    for layer in layers:
        if not _LAYER.fullmatch(layer.media_type):
            raise ImageError(f"{where} has a layer of type {layer.media_type}, which is no file system")
    return OciImage(
        manifest=entry,
        document=data,
        config=descriptor(value.get("config"), f"{where} config"),
        layers=layers,
        annotations=_mapping(value.get("annotations")),
    )


def media_type(data: bytes, told: str) -> str:
    """What kind of document this is: as it says itself, else as its server does, else by its form."""
    with contextlib.suppress(ImageError):
        value = document(data, "")
        if isinstance(value.get("mediaType"), str):
            return str(value["mediaType"])
        if told not in INDEXES | MANIFESTS:
            return OCI_INDEX if "manifests" in value else OCI_MANIFEST
    return told


class LayerStream(Protocol):
    """A layer's bytes, which count only once they are proved."""

    def read(self, size: int = -1, /) -> bytes: ...

    def prove(self) -> None: ...


def describe(image: OciImage, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What an OCI image tells for an image manifest."""
    annotations = {**_mapping(_mapping(config.get("config")).get("Labels")), **image.annotations}
    version = annotations.get("org.opencontainers.image.version") or image.manifest.hex[:12]
    system = str(config.get("os", "linux"))
    manifest: dict[str, Any] = {
        "name": name,
        "version": re.sub(r"[^A-Za-z0-9._/+-]", "-", str(version))[:128],
        "os": system if system in ("linux", "windows", "illumos") else "other",
        "type": "other",
    }
    text = annotations.get("org.opencontainers.image.description")
    if isinstance(text, str) and text:
        manifest["description"] = text[:512]
    return manifest


def apply_layers(
    layers: Sequence[AbstractContextManager[LayerStream]], into: Path, apply: ApplyLayer
) -> FileList:
    """Apply layers, lowest first, each proved before the next is begun. Returns the true entries."""
    into.chmod(0o755)
    entries: FileList = {}
    for layer in layers:
        with layer as stream:
            entries = apply(cast("IO[bytes]", stream), into, entries)
            stream.prove()
    return entries
