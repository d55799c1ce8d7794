"""Detect what an image file holds from its content, never from its name."""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
from pathlib import Path
from typing import IO, Literal, cast

from buildstep.errors import ImageError
from buildstep.formats.decompress import Decompressed
from buildstep.formats.zfs_stream import read_begin

FileKind = Literal["tar", "oci", "zfs", "btrfs"]

_BTRFS = b"btrfs-stream\0"
_BLOCK = 512
_HEAD = 32 * _BLOCK
"""Bytes of content, unpacked, by which a kind is detected: a few headers of an archive."""
_COMPRESSED = (b"\x1f\x8b", b"\xfd7zXZ\x00", b"BZh", b"\x28\xb5\x2f\xfd")

_OCI_NAME = re.compile(
    r"\.|(\./)?(blobs(/sha256(/[0-9a-f]{64})?)?|index\.json|oci-layout|manifest\.json|repositories"
    r"|[0-9a-f]{64}(\.json|\.tar|/(layer\.tar|json|VERSION))?)/?"
)
"""Names in the archives of containers; a root file system has another one soon."""


def kind_of(path: Path) -> FileKind:
    """Return the kind of an image file, or of a layout's directory. Raises ImageError for an unknown one."""
    if path.is_dir():
        if (path / "oci-layout").is_file():
            return "oci"
        raise ImageError(f"{path} is a directory, and no OCI layout", hint="pack it: tar -C DIR -cf FILE .")
    try:
        with path.open("rb") as file:
            start = file.read(8)
            file.seek(0)
            with Decompressed(file) as stream:
                head = stream.read(_HEAD)
    except OSError as error:
        raise ImageError(f"cannot read the image {path}: {error.strerror}") from error
    except ImageError as error:
        raise ImageError(f"{path} is damaged: {error.message}", hint="fetch it again") from error
    kind = _kind_of_head(head)
    if kind is None:
        raise ImageError(
            f"{path.name} holds no image that we know",
            hint="a tar archive, an OCI archive or a ZFS stream, compressed or not",
        )
    if kind != "tar":
        return kind
    if start.startswith(_COMPRESSED):
        if _is_container_like(head):
            raise ImageError(
                f"{path.name} is a compressed OCI archive",
                hint="an OCI archive is a plain tar; uncompress it",
            )
        return "tar"
    return "oci" if _is_container(path) else "tar"


def kind_of_start(start: bytes) -> FileKind | None:
    """Return the kind of a file by its first bytes, compressed or not; None where they do not show it."""
    try:
        with Decompressed(cast(IO[bytes], io.BytesIO(start))) as stream:
            head = stream.read(_HEAD)
    except ImageError:  # more is needed
        return None
    kind = _kind_of_head(head)
    return None if kind == "tar" and _is_container_like(head) else kind


def _kind_of_head(head: bytes) -> FileKind | None:
    if head.startswith(_BTRFS):
        return "btrfs"
    if _is_zfs(head):
        return "zfs"
    return "tar" if _is_tar(head) else None


def _is_container_like(head: bytes) -> bool:
    """Whether the first names of an archive, cut off somewhere, could all be those of a container's."""
    names = []
    with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(head), mode="r:") as archive:
        for member in archive:
            if member.name not in (".", "./"):
                names.append(member.name)
            if len(names) == 2:
                break
    return bool(names) and all(_OCI_NAME.fullmatch(name) for name in names)


def _is_zfs(head: bytes) -> bool:
    try:
        read_begin(head)
    except ImageError as error:
        return "package of several" in error.message
    return True


def _is_tar(head: bytes) -> bool:
    """A header's checksum is right, or the archive is empty."""
    if len(head) < _BLOCK:
        return False
    if not head.strip(b"\0"):
        return True
    try:
        checksum = int(head[148:156].rstrip(b"\0 ").lstrip() or b"-", 8)
    except ValueError:
        return False
    return checksum == sum(head[:148]) + sum(head[156:_BLOCK]) + 8 * 32


def _is_container(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.name in ("oci-layout", "./oci-layout", "manifest.json"):
                    return True
                if not _OCI_NAME.fullmatch(member.name):
                    return False
    except (tarfile.TarError, EOFError, OSError):
        return False  # whoever unpacks it says what is wrong
    return False
