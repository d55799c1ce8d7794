"""What the sources of files share: a path with a name behind it, archives that are compressed as a whole."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path

from buildstep.errors import BuildstepError, ImageError
from buildstep.formats.decompress import MAGIC_SIZE, Decompressed, compression_of
from buildstep.formats.unpack import Limits
from buildstep.images.file_kind import FileKind, check_kind
from buildstep.report.parse import load
from buildstep.report.record import RECORD_SUFFIX, BuildRecord
from buildstep.system.files import CHUNK, size_of

_ENDING = re.compile(r"(\.oci)?\.(tar|tgz|txz|tbz2?|tzst)(\.(gz|xz|zst|bz2))?$|\.(gz|xz|zst|bz2)$")

FILE_SCHEMES: tuple[FileKind, ...] = ("tar", "oci", "docker-archive", "zfs", "btrfs")
"""Schemes that name a file or directory of this host; btrfs stands for a file that is refused."""

NAMED_INSIDE = ("oci", "docker-archive")
"""Those whose file may have several images, and names of them."""


def path_of(ref: str) -> Path | None:
    """Return the file or directory that an image reference names, there or not; None if it names none."""
    scheme, _, locator = ref.partition(":")
    if scheme not in FILE_SCHEMES or not locator:
        return None
    if scheme in NAMED_INSIDE:
        with contextlib.suppress(ImageError):
            return split(locator, "", "")[0]
    return Path(locator.partition(",")[0] if scheme == "zfs" else locator)


def check_file(ref: str) -> None:
    """Raise ImageError for a reference whose file is plainly of another kind than its scheme says.

    For a file that will be imported: a compressed archive of a container is expanded for it.
    """
    path = path_of(ref)
    for scheme in FILE_SCHEMES:
        if path is not None and ref.startswith(f"{scheme}:"):
            check_kind(path, scheme)


def split(locator: str, what: str, form: str) -> tuple[Path, str]:
    """Return the path of a locator PATH[:NAME], and the name, empty if there is none.

    Both may have colons: the longest path that exists is meant. what, form: what the locator names and how it
    is written, for the ImageError where no such path exists.
    """
    path = locator
    while path:
        if os.path.exists(path):
            return Path(path), locator[len(path) + 1 :]
        path = path.rpartition(":")[0]
    raise ImageError(f"there is no {what} {locator}", hint=form)


def stem(path: Path) -> str:
    """Return what an image is called whose file names it: the file's name without `.tar.gz` and such."""
    return _ENDING.sub("", path.name) or "base"


def build_beside(path: Path) -> BuildRecord | None:
    """Return the record of the build that wrote an image file of this name and size, if it lies beside it."""
    with contextlib.suppress(OSError):
        size = size_of(path)
        for file in sorted(path.absolute().parent.glob(f"*{RECORD_SUFFIX}")):
            if path.name.startswith(f"{file.name.removesuffix(RECORD_SUFFIX)}."):
                with contextlib.suppress(BuildstepError):
                    record = load(file)
                    if any((row.name, row.size) == (path.name, size) for row in record.artifacts):
                        return record
    return None


def is_compressed(path: Path) -> bool:
    """Return whether a file is compressed as a whole; a directory is not. Raises ImageError."""
    if os.path.isdir(path):
        return False
    try:
        with path.open("rb") as file:
            return bool(compression_of(file.read(MAGIC_SIZE)))
    except OSError as error:
        raise ImageError(f"cannot read the image {path}: {error.strerror}") from error


def expanded(path: Path, folder: Path) -> Path:
    """Return an archive uncompressed: itself, or a copy of it in an empty directory. Raises ImageError."""
    if not is_compressed(path):
        return path
    copy = folder / "expanded.tar"
    try:
        with (
            path.open("rb") as file,
            Decompressed(file, ratio=Limits().ratio) as stream,
            copy.open("xb") as out,
        ):
            while data := stream.read(CHUNK):
                out.write(data)
    except OSError as error:
        raise ImageError(
            f"cannot uncompress {path} to {copy}: {error.strerror}",
            retryable=error.errno in (errno.ENOSPC, errno.EDQUOT),
        ) from error
    return copy
