"""What the store knows of an image, and how it sees that nothing touched one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from buildstep.cache.base_layers import BaseLayer
from buildstep.errors import ImageError
from buildstep.images.interface import Identity
from buildstep.rootfs.interface import Package
from buildstep.spec.lock import MadeOf
from buildstep.system import sealed
from buildstep.system.files import read_json
from buildstep.system.root import Root

FORMAT = 2

_UNSEALED_FORMAT = 1
"""The format before records had a `check`: such an image is verified in full, and its record rewritten."""


class DamagedImage(ImageError):
    """What is kept of an image is not what was imported. Importing it again heals it."""


def root_in(tree: Path, manifest: Mapping[str, Any]) -> Root:
    """Return the file system in an image's tree: that of a zone is in root/, beside other files."""
    zone = manifest.get("type") == "zone-dataset" and (tree / "root").is_dir()
    return Root(tree / "root" if zone else tree)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """A base image in the store. fingerprint: digest over names, sizes, ctimes and inodes of its tree;
    list_digest: SHA-256 of its file list as stored, empty in a record of before there was one; installer: the
    name of the package manager in it, of those that we know, empty for none and in an older record."""

    uuid: str
    key: str
    label: str
    tree_digest: str
    fingerprint: str
    manifest: Mapping[str, Any]
    inputs: Mapping[str, str]
    packages: tuple[Package, ...]
    config: Mapping[str, Any]
    imported: float
    files: int
    size: int
    origin: str = ""
    blobs: tuple[str, ...] = field(default=())
    aliases: tuple[str, ...] = field(default=())
    """Keys of other references that turned out to be the same image."""
    list_digest: str = ""
    installer: str = ""
    layers: tuple[BaseLayer, ...] = ()
    """The layers that it came in, lowest first; none where an image based on it has all of it as one."""

    made_of: MadeOf | None = None
    """Of a root that was made of a suite: its package files, by which it can be made again."""

    @property
    def name(self) -> str:
        return str(self.manifest.get("name", self.label))

    @property
    def version(self) -> str:
        return str(self.manifest.get("version", ""))

    @property
    def own_layers(self) -> int:
        """How many layers of an image based on it are its own; none where it is empty."""
        return len(self.layers) or int(self.files > 1)

    @property
    def platform(self) -> str:
        """What it says that it runs on, such as linux/arm64; empty where it does not say."""
        words = [str(self.config.get(name) or "") for name in ("os", "architecture", "variant")]
        return "/".join(word for word in words if word) if words[1] else ""

    def is_for(self, platform: str) -> bool:
        """Say whether an image is for a platform such as linux/arm64, or does not say what it is for."""
        has = self.config.get("architecture")
        return not has or has == platform.split("/")[1]

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON data."""
        return {"format": FORMAT, **asdict(self)}

    def save(self, path: Path) -> None:
        """Write the record. Raises OSError."""
        sealed.write(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> ImageRecord:
        """Return the record in a file.

        Raises OSError, ImageError for one of another format, and ValueError, TypeError or KeyError for a
        damaged one.
        """
        try:
            return cls.from_json(sealed.read(path))
        except sealed.Unsealed:
            value = read_json(path)
            if not isinstance(value, dict) or value.get("format") != _UNSEALED_FORMAT or "check" in value:
                raise
            return cls.from_json({**value, "format": FORMAT, "list_digest": ""})

    @classmethod
    def from_json(cls, value: Any) -> ImageRecord:
        """Return the record of a JSON object that `save` wrote.

        Raises ImageError for one of another format, TypeError or KeyError for a damaged one.
        """
        if not isinstance(value, dict):
            raise TypeError("it is no JSON object")
        if value.get("format") != FORMAT:
            raise ImageError(f"image record of format {value.get('format')!r}; this version reads {FORMAT}")
        fields = {key: value[key] for key in value if key != "format"}
        fields["packages"] = tuple(Package(**row) for row in fields["packages"])
        fields["layers"] = tuple(BaseLayer.from_json(row) for row in fields.get("layers", ()))
        if fields.get("made_of") is not None:
            fields["made_of"] = MadeOf.from_json(fields["made_of"])
        for name in ("blobs", "aliases"):
            fields[name] = tuple(fields.get(name, ()))
        return cls(**fields)


def history_of_import(image: ImageRecord) -> str:
    """Return what the history says that layers were made by which came with no history of their own: what
    brings the image into a store. A place on this host is not told."""
    if image.key == key_of(image.uuid):
        return f"buildstep image import {image.name}@{image.version}"
    return f"buildstep image import {image.label}"


def remedy(uuid: str) -> str:
    """Return what can be done about a damaged image."""
    return (
        "the next build imports it again; where it cannot be fetched any more,"
        f" `buildstep cache prune` and `buildstep image delete {uuid}` remove it"
    )


def key_of(uuid: str) -> str:
    """Return the key of an image that is known by its uuid."""
    return f"image:{uuid}"


def newest(
    records: Sequence[ImageRecord], ref: str, identity: Identity | None, platform: str
) -> ImageRecord | None:
    """Return the last of these records, oldest first, that a reference means; None if none does.

    identity: of a locator. platform: what a name@version is wanted for, where images for several have it.
    """
    if identity is not None:
        key = identity.key
        return next((it for it in reversed(records) if key in (it.key, *it.aliases)), None)
    named = [it for it in records if ref in (it.uuid, f"{it.name}@{it.version}")]
    fitting = [it for it in named if it.is_for(platform)]
    return (fitting or named)[-1] if named else None


def last_of(records: Sequence[ImageRecord], ref: str, platform: str) -> ImageRecord | None:
    """Return the last of these records, oldest first, of a tag in a registry and for a platform."""
    from buildstep.net.registry import Reference

    label = str(Reference.parse(ref))
    return next((it for it in reversed(records) if it.label == label and it.is_for(platform)), None)
