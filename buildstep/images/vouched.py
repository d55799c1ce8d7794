"""What references were found to mean when a policy let their images through, and where that is kept."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from buildstep.errors import ImageError
from buildstep.images.interface import Identity
from buildstep.system.digest import sha256_bytes

_SUFFIX: Final = ".evidence"


class Vouched(dict[str, str]):
    """The key of the image by its reference, for the length of a command. said: why the last one was let
    through, empty where no policy was asked."""

    said: str = ""

    def same(self, ref: str, found: Identity) -> Identity:
        """Return what a reference means now. Raises ImageError where that is not what was verified."""
        if self.get(ref, found.key) != found.key:
            raise ImageError(f"{ref} changed since it was verified", hint="build again", retryable=True)
        return found


def evidence_at(folder: Path, key: str) -> Path:
    """Return where evidence about the image of a key is kept. folder: of the store's records."""
    return folder / f"{sha256_bytes(key.encode())[:32]}{_SUFFIX}"


def forget(folder: Path, keys: Iterable[str]) -> None:
    """Remove what is kept about images that are not in the store. keys: of those that are."""
    kept = {evidence_at(folder, key) for key in keys}
    for path in folder.glob(f"*{_SUFFIX}"):
        if path not in kept:
            path.unlink(missing_ok=True)
