"""Images that a Dockerfile describes: `NAME.dockerfile`, or `NAME.MODE.dockerfile`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from buildstep.components import dockerfile, dockerignore
from buildstep.components.interface import ReadImage, ReadOptions
from buildstep.errors import Fault

SUFFIX = ".dockerfile"


class Dockerfile:
    """See `Kind`."""

    name = "dockerfile"

    def stem(self, file: str) -> str | None:
        return file.removesuffix(SUFFIX) if file.endswith(SUFFIX) else None

    def ignore_file(self, file: str, files: Collection[str]) -> str:
        return dockerignore.ignore_file(file, files)

    def platform_faults(self, platforms: Sequence[str], where: str) -> list[Fault]:
        return []

    def read(self, text: str, *, where: str, options: ReadOptions) -> ReadImage:
        return dockerfile.read(text, where=where, options=options)


DOCKERFILE = Dockerfile()
