"""Detect what an image file holds from its content, never from its name."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
from pathlib import Path
from typing import IO, Literal, cast

from buildstep.errors import ImageError
from buildstep.formats import docker_archive
from buildstep.formats.archive_index import clean_name
from buildstep.formats.decompress import MAGIC_SIZE, Decompressed, compression_of
from buildstep.formats.oci.spec import MAX_DOCUMENT
from buildstep.formats.tar_reader import headers
from buildstep.formats.zfs_stream import read_begin

FileKind = Literal["tar", "oci", "docker-archive", "zfs", "btrfs"]
"""Named as the schemes are, of which btrfs is none."""

_WORDS: dict[FileKind, str] = {
    "tar": "a root file system in a tar archive",
    "oci": "an OCI layout",
    "docker-archive": "an archive of `docker save`",
    "zfs": "a ZFS stream",
    "btrfs": "a btrfs stream",
}

_BTRFS = b"btrfs-stream\0"
_BLOCK = 512
_HEAD = 32 * _BLOCK
"""Bytes of content, unpacked, by which a kind is detected: a few headers of an archive."""
_CONTAINER_NAME = re.compile(
    r"blobs(/sha256(/[0-9a-f]{64}(\.tar(\.gz|\.zst)?)?)?)?|index\.json|oci-layout|repositories"
    r"|(sha256:)?[0-9a-f]{64}|[^/]+\.(json|tar|tar\.gz|tgz|tar\.zst)|[^/]+/(layer\.tar|json|VERSION)"
)
"""Names in the archives of containers, whichever tool wrote them; a root file system has another one soon."""


def kind_of(path: Path) -> FileKind:
    """Return the kind of an image file, or of a layout's directory. Raises ImageError for an unknown one."""
    return _detected(path) or "tar"


def check_kind(path: Path, scheme: FileKind) -> None:
    """Raise ImageError for a file that is plainly something else than its scheme says; names the right one.

    What is damaged, or nothing that we know, passes: whoever reads all of it says what is wrong.
    """
    _check(path, scheme, whole=True)


def check_start(path: Path, scheme: FileKind) -> None:
    """Raise ImageError as `check_kind` does, where the first names in an archive show what it is.

    Which kind of container's archive it is, they do not: for that a compressed one is expanded as a whole,
    which a build must not do whose base image is in the store already.
    """
    _check(path, scheme, whole=False)


def _check(path: Path, scheme: FileKind, *, whole: bool) -> None:
    try:
        kind = _detected(path, scheme, whole=whole)
    except ImageError:
        if os.path.isdir(path):
            raise
        return
    if kind in (scheme, None):
        return
    hint = "publish the image as oci or tar" if kind == "btrfs" else f"write {kind}:{path}"
    raise ImageError(f"{path} is {_WORDS[kind]}, not {_WORDS[scheme]}", hint=hint)


def _detected(path: Path, scheme: FileKind | None = None, *, whole: bool = True) -> FileKind | None:
    """Return a file's kind; None for a tar of nothing but names of containers, that is none of them.

    scheme: the kind that is wanted of a file that is of two kinds. whole: tell the kinds of containers'
    archives apart, else they are None too.
    """
    if os.path.isdir(path):
        if os.path.isfile(path / "oci-layout"):
            return "oci"
        raise ImageError(f"{path} is a directory, and no OCI layout", hint="pack it: tar -C DIR -cf FILE .")
    try:
        with path.open("rb") as file, Decompressed(file, piece=_HEAD) as stream:
            head = stream.read(_HEAD)
        kind = _kind_of_head(head)
        if kind == "tar" and _is_container_like(head):
            return _container_kind(path, scheme) if whole else None
    except OSError as error:
        raise ImageError(f"cannot read the image {path}: {error.strerror}") from error
    except ImageError as error:
        raise ImageError(f"{path} is damaged: {error.message}", hint="fetch it again") from error
    if kind is None:
        raise ImageError(
            f"{path.name} holds no image that we know",
            hint="a tar archive, an OCI or docker archive, or a ZFS stream, compressed or not",
        )
    return kind


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
    with contextlib.suppress(ImageError):
        for member in headers(io.BytesIO(head), size=len(head)):
            if name := clean_name(member.name):
                names.append(name)
            if len(names) == 2:
                break
    return bool(names) and all(_CONTAINER_NAME.fullmatch(name) for name in names)


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


def _container_kind(path: Path, scheme: FileKind | None) -> FileKind | None:
    """Return what an archive is whose first names are a container's: see `_detected`.

    Since version 25 Docker writes a layout and its own manifest into one archive: that is of the kind that
    is wanted, and a layout where none is. A compressed archive is expanded. Raises ImageError, OSError.
    """
    old = docker = layout = False
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        compressed = compression_of(file.read(MAGIC_SIZE))
        file.seek(0)
        stream = cast(IO[bytes], stack.enter_context(Decompressed(file))) if compressed else file
        size = None if compressed else path.stat().st_size
        try:
            for member in headers(stream, size=size, verified=True):
                name = clean_name(member.name)
                layout = layout or name == "oci-layout"
                docker = docker or _is_docker_manifest(name, member, stream)
                if layout and scheme != "docker-archive":
                    return "oci"
                if docker and scheme == "docker-archive":
                    return "docker-archive"
                old = old or name == "repositories"  # all that Docker before 1.10 wrote
                if name and not _CONTAINER_NAME.fullmatch(name):
                    return "docker-archive" if docker else "oci" if layout else "tar"
        except ImageError:
            if not docker and not layout:
                raise
            # Else it ends inside of a layer, say, which its reader notices.
    if docker or (old and not layout):
        return "docker-archive"
    return "oci" if layout else None


def _is_docker_manifest(name: str, member: tarfile.TarInfo, stream: IO[bytes]) -> bool:
    if name != docker_archive.MANIFEST or not member.isreg() or member.size > MAX_DOCUMENT:
        return False
    stream.seek(member.offset_data)
    try:
        docker_archive.images_of(stream.read(member.size), name)
    except ImageError:
        return False
    return True
