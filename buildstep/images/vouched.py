"""What references were found to mean when a policy let their images through."""

from __future__ import annotations

from buildstep.errors import ImageError
from buildstep.images.interface import Identity


class Vouched(dict[str, str]):
    """The key of the image by its reference, for the length of a command. said: why the last one was let
    through, empty where no policy was asked."""

    said: str = ""

    def same(self, ref: str, found: Identity) -> Identity:
        """Return what a reference means now. Raises ImageError where that is not what was verified."""
        if self.get(ref, found.key) != found.key:
            raise ImageError(f"{ref} changed since it was verified", hint="build again", retryable=True)
        return found
