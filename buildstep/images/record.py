"""What the store knows of an image, and how it sees that nothing touched one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from buildstep.errors import ImageError
from buildstep.rootfs.interface import Package

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """A base image in the store. fingerprint: digest over names, sizes, ctimes and inodes of its tree."""

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

    @property
    def name(self) -> str:
        return str(self.manifest.get("name", self.label))

    @property
    def version(self) -> str:
        return str(self.manifest.get("version", ""))

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> ImageRecord:
        """Return the record that `to_json` wrote.

        Raises ImageError for one of another format, TypeError or KeyError for a damaged one.
        """
        if not isinstance(value, dict):
            raise TypeError("it is no JSON object")
        if value.get("format") != FORMAT:
            raise ImageError(f"image record of format {value.get('format')!r}; this version reads {FORMAT}")
        fields = {key: value[key] for key in value if key != "format"}
        fields["packages"] = tuple(Package(**row) for row in fields["packages"])
        for name in ("blobs", "aliases"):
            fields[name] = tuple(fields.get(name, ()))
        return cls(**fields)
