"""The OCI image formats (image-spec 1.1): media types, platforms, descriptors, and documents of these.

The only place for OCI media types and architecture names; registries, layouts and the emitter share it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Protocol, cast

from buildstep.errors import ImageError
from buildstep.tree.entry import FileList

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
"""An uncompressed layer; a codec's suffix is added (`+gzip`)."""
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})

ANNOTATION = "org.opencontainers.image."
"""What the names of the standard annotations begin with."""
REF_NAME = ANNOTATION + "ref.name"
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
"""What `uname -m` says, as OCI names it: GOARCH, and a variant behind a slash."""

ARCHITECTURES = (
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le",
    "riscv64", "s390x",
)  # fmt: skip
"""Processors that Linux runs on, as OCI names them (image-spec config.md: the values of GOARCH)."""

ApplyLayer = Callable[[IO[bytes], Path, FileList], FileList]
"""Applies a layer's tar stream, compressed or not, to the tree in a directory, whiteouts included.

Takes the true entries of the layers below and returns those of the result.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class OciPlatform:
    """The operating system and processor that an image runs on, in OCI's words."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> OciPlatform:
        """Read a platform such as `linux/arm64/v8`. Raises ImageError."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(re.fullmatch(r"[a-z0-9_.-]+", part) for part in parts):
            raise ImageError(f"{text!r} is not a platform", hint="such as linux/amd64 or linux/arm/v7")
        return cls(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) == 3 else "")

    @classmethod
    def here(cls) -> OciPlatform:
        """Return this host's platform; images for containers are Linux ones wherever they are made."""
        return cls.of_machine(platform.machine())

    @classmethod
    def of_machine(cls, machine: str) -> OciPlatform:
        """Return the platform of a host by what `uname -m` says of it."""
        machine = machine.lower()
        return cls.parse(f"linux/{_MACHINES.get(machine, machine)}")

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> OciPlatform:
        """Return the platform that an image configuration says (config.md). Raises ImageError."""
        words = [config.get(name) or "" for name in ("os", "architecture", "variant")]
        return cls.parse("/".join(str(word) for word in words if word))

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def to_json(self) -> dict[str, str]:
        """Return the platform's fields as configurations and indexes have them."""
        found = {"architecture": self.architecture, "os": self.os}
        return found | {"variant": self.variant} if self.variant else found


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptor:
    """A reference to content (image-spec descriptor.md). digest: `sha256:...`; platform: in an index."""

    media_type: str
    digest: str
    size: int
    platform: Mapping[str, Any] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def hex(self) -> str:
        return self.digest.removeprefix("sha256:")

    def to_json(self) -> dict[str, Any]:
        """Return the descriptor as it stands in a document; fields without a value are left out."""
        found: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        optional = {"platform": self.platform, "annotations": self.annotations}
        return found | {name: dict(value) for name, value in optional.items() if value}


@dataclass(frozen=True, kw_only=True, slots=True)
class OciImage:
    """One platform's image. document: the manifest's bytes as stored, from which the rest was read."""

    manifest: Descriptor
    document: bytes
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)


def descriptor(value: object, where: str) -> Descriptor:
    """Check one descriptor of a document. Raises ImageError, with `where`, for a bad type, digest or size."""
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
                annotations=_texts(value.get("annotations")),
            )
        if isinstance(digest, str) and not _DIGEST.fullmatch(digest):
            raise ImageError(
                f"{where}: {digest[:80]!r} is not a sha256 digest", hint="only sha256 is supported"
            )
    raise ImageError(f"{where}: not a descriptor with mediaType, digest and size")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: object) -> Mapping[str, str]:
    """Return annotations: the specification has texts only, and others are passed over."""
    return {key: text for key, text in _mapping(value).items() if isinstance(text, str)}


def document(data: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object. Raises ImageError, naming `where`, for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ImageError(f"{where} is not a JSON object")
    return value


def choose(entries: Sequence[Descriptor], wanted: OciPlatform, where: str) -> Descriptor:
    """Return the entry of an index for a platform. Raises ImageError that lists the platforms there are.

    An entry of the same variant is preferred; without a variant, v8 is arm64's default.
    """
    fits = []
    for entry in entries:
        found = entry.platform
        if not found or entry.annotations.get("vnd.docker.reference.type"):  # an attestation, not an image
            continue
        if (found.get("os"), found.get("architecture")) == (wanted.os, wanted.architecture):
            variant = str(found.get("variant", ""))
            exact = variant == wanted.variant
            if exact or not variant or (not wanted.variant and variant == "v8"):
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
        f"{where} has no image for {wanted}", hint=f"it has {names or 'none that names its platform'}"
    )


def index_of(entries: Sequence[Descriptor]) -> tuple[Descriptor, bytes]:
    """Return an index of images, each with its platform (image-spec image-index.md), and its descriptor."""
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [entry.to_json() for entry in entries],
    }
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return Descriptor(media_type=OCI_INDEX, digest=digest, size=len(data)), data


def parse_index(data: bytes, where: str) -> list[Descriptor]:
    """Return the entries of an index or manifest list. Raises ImageError."""
    rows = document(data, where).get("manifests")
    if not isinstance(rows, list):
        raise ImageError(f"{where} is not an index of images")
    return [descriptor(row, f"{where} manifests[{i}]") for i, row in enumerate(rows)]


def parse_manifest(data: bytes, entry: Descriptor, where: str) -> OciImage:
    """Parse an image's manifest. Raises ImageError, also for an artifact that is not a root file system."""
    value = document(data, where)
    kind = value.get("mediaType", entry.media_type)
    if value.get("schemaVersion") != 2 or not isinstance(kind, str) or kind not in MANIFESTS:
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
        annotations=_texts(value.get("annotations")),
    )


def media_type(data: bytes, reported: str) -> str:
    """Return a document's media type: its own word, else the reported one if known, else by its fields."""
    with contextlib.suppress(ImageError):
        value = document(data, "")
        if isinstance(value.get("mediaType"), str):
            return str(value["mediaType"])
        if reported not in INDEXES | MANIFESTS:
            return OCI_INDEX if "manifests" in value else OCI_MANIFEST
    return reported


class LayerStream(Protocol):
    """A layer's bytes. They must not be used for good before `verify` has compared their digest."""

    def read(self, size: int = -1, /) -> bytes: ...

    def verify(self) -> None: ...


def describe(
    config: Mapping[str, Any], name: str, digest: str, annotations: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the imgmanifest fields that an image's labels, and annotations where it has them, give.

    digest: of the image in hex, its version where nothing names one.
    """
    annotations = {**_mapping(_mapping(config.get("config")).get("Labels")), **annotations}
    version = annotations.get(ANNOTATION + "version") or digest[:12]
    system = str(config.get("os", "linux"))
    manifest: dict[str, Any] = {
        "name": name,
        "version": re.sub(r"[^A-Za-z0-9._/+-]", "-", str(version))[:128],
        "os": system if system in ("linux", "windows", "illumos") else "other",
        "type": "other",
    }
    text = annotations.get(ANNOTATION + "description")
    if isinstance(text, str) and text:
        manifest["description"] = text[:512]
    return manifest


def apply_layers(
    layers: Sequence[AbstractContextManager[LayerStream]],
    into: Path,
    apply: ApplyLayer,
    applied: Callable[[FileList, FileList], None] = lambda _before, _after: None,
) -> FileList:
    """Apply layers, lowest first, each verified before the next one begins. Returns the true entries.

    applied: is called after each layer, with the entries before it and with it.
    """
    into.chmod(0o755)
    if not layers:  # as in `FROM scratch` with an environment alone: an empty layer gives the top its entry
        return apply(io.BytesIO(), into, {})
    entries: FileList = {}
    for layer in layers:
        before = entries
        with layer as stream:
            entries = apply(cast("IO[bytes]", stream), into, before)
            stream.verify()
        applied(before, entries)
    return entries
