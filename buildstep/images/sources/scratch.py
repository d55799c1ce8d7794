"""scratch: an empty tree, for images that bring everything in their proto directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from buildstep.images.interface import Identity, SourceContext, SourceImage
from buildstep.tree.entry import Entry


class Scratch:
    scheme: ClassVar[str] = "scratch"

    def identify(self, locator: str, hasher: Callable[[Path], str]) -> Identity:
        del locator, hasher
        return Identity(key="scratch", label="scratch")

    def fetch(self, locator: str, into: Path, context: SourceContext) -> SourceImage:
        del locator, context
        into.chmod(0o755)
        os.utime(into, (0, 0))
        # On disk the top directory belongs to whoever builds, if that is not root, and has the time of the
        # import; in the image it is the same for everybody.
        return SourceImage(
            manifest={"name": "scratch", "version": "0"}, entries={b"": Entry(b"", "d", 0o755, 0, 0)}
        )
