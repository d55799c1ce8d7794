"""scratch: an empty tree, for images that bring everything in their proto directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from buildstep.images.interface import Identity, SourceContext, SourceImage


class Scratch:
    scheme: ClassVar[str] = "scratch"

    def identify(self, locator: str, hasher: Callable[[Path], str]) -> Identity:
        del locator, hasher
        return Identity(key="scratch", label="scratch")

    def fetch(self, locator: str, into: Path, context: SourceContext) -> SourceImage:
        del locator, context
        into.chmod(0o755)
        return SourceImage(manifest={"name": "scratch", "version": "0"})
