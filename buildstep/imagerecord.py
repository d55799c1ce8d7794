"""What the store knows of an image, and how it sees that nothing touched one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from buildstep.errors import ImageError
from buildstep.rootfs.interface import Package
from buildstep.system.digest import sha256_file
from buildstep.system.files import read_json, write_json
from buildstep.tree.scan import walk

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
    def from_json(cls, value: Mapping[str, Any]) -> ImageRecord:
        """Raises ImageError for a record of another format, TypeError or KeyError for a damaged one."""
        if value.get("format") != FORMAT:
            raise ImageError(f"image record of format {value.get('format')!r}; this version reads {FORMAT}")
        fields = {key: value[key] for key in value if key != "format"}
        fields["packages"] = tuple(Package(**row) for row in fields["packages"])
        for name in ("blobs", "aliases"):
            fields[name] = tuple(fields.get(name, ()))
        return cls(**fields)


def uuid_of(text: str) -> str:
    """A uuid that says nothing but is the same for the same text (the form of a version 4 one)."""
    raw = bytearray(hashlib.sha256(text.encode()).digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    digits = raw.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def fingerprint_of(tree: Path) -> str:
    """A digest that changes when anything in a tree is touched: ctimes cannot be set back."""
    rows = [
        b"%s\0%d %d %d %d" % (path, info.st_mode, info.st_size, info.st_ctime_ns, info.st_ino)
        for path, _, info in walk(os.fsencode(tree))
    ]
    return hashlib.sha256(b"\n".join(sorted(rows))).hexdigest()


class FileHashes:
    """SHA-256 of single large files (base archives), remembered by what lstat says of them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def sha256(self, path: Path) -> str:
        info = path.stat()
        key = f"{info.st_dev}:{info.st_ino}:{info.st_size}:{info.st_mtime_ns}:{info.st_ctime_ns}"
        try:
            known: dict[str, str] = read_json(self._path)
        except (OSError, ValueError):
            known = {}
        if key in known:
            return known[key]
        digest = sha256_file(path)
        # A file as young as this moment may still be written within the clock's grain: not remembered.
        if time.time_ns() - info.st_ctime_ns > 2_000_000_000:
            with contextlib.suppress(OSError):
                write_json(self._path, dict([*known.items(), (key, digest)][-200:]), durable=False)
        return digest
