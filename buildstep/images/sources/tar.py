"""tar:FILE. A root file system as a tar archive: plain, or gzip, xz, bzip2, zstd by its content.

A container's archive is refused, since unpacked it is a directory of blobs. One that a build of ours wrote is
known by the name and version that the record beside it has.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, ClassVar, cast

from buildstep.errors import ImageError
from buildstep.images.file_kind import check_kind
from buildstep.images.interface import Identity, SourceContext, SourceImage
from buildstep.images.sources.local_file import build_beside, stem
from buildstep.system.digest import HashingReader


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
        build = build_beside(path)
        with path.open("rb") as stream:
            reader = HashingReader(stream) if build is not None else None
            entries = context.unpack(cast("IO[bytes]", reader or stream), into)
            # What a record says of a file of this name and size is only true of the file that it is about.
            digest = reader.finish().sha256 if reader else ""
        made = build is not None and any(file.sha256 == digest for file in build.artifacts)
        return SourceImage(
            manifest={"name": build.name, "version": build.version}
            if build is not None and made
            else {"name": stem(path), "version": "0"},
            inputs={"file": str(path.absolute())},
            entries=entries,
        )
