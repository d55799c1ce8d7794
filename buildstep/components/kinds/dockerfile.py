"""Images that a Dockerfile describes: `NAME.dockerfile`, or `NAME.MODE.dockerfile`."""

from __future__ import annotations

from buildstep.components import dockerfile
from buildstep.components.interface import ReadImage, ReadOptions

SUFFIX = ".dockerfile"


class Dockerfile:
    """See `Kind`."""

    name = "dockerfile"

    def stem(self, file: str) -> str | None:
        return file.removesuffix(SUFFIX) if file.endswith(SUFFIX) else None

    def read(self, text: str, *, where: str, options: ReadOptions) -> ReadImage:
        return dockerfile.read(text, where=where, options=options)


DOCKERFILE = Dockerfile()
