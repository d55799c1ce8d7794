"""tar:FILE. A root file system as a tar archive: plain, or gzip, xz, bzip2, zstd by its content.

A container's archive is refused, since unpacked it is a directory of blobs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from buildstep.errors import ImageError
from buildstep.images.file_kind import check_kind
from buildstep.images.interface import Identity, SourceContext, SourceImage
from buildstep.images.sources.local_file import stem


class Tar:
    scheme: ClassVar[str] = "tar"

    def identify(self, locator: str, hasher: Callable[[Path], str]) -> Identity:
        path = Path(locator)
        check_kind(path, "tar")
        try:
            digest = hasher(path)
        except OSError as error:
            raise ImageError(f"cannot read the base image {locator}: {error.strerror}") from error
        return Identity(key=f"tar:sha256:{digest}", label=f"tar:{path.name}")

    def fetch(self, locator: str, into: Path, context: SourceContext) -> SourceImage:
        path = Path(locator)
        with path.open("rb") as stream:
            entries = context.unpack(stream, into)
        return SourceImage(
            manifest={"name": stem(path), "version": "0"},
            inputs={"file": str(path.absolute())},
            entries=entries,
        )
