"""The locks of an image store.

state/locks/image-KEY.lock       held while the image of that key is imported or deleted
state/locks/image-use-UUID.lock  held, shared, by whoever uses the image; exclusively while it is deleted

Whoever needs both takes the key's lock first. An image is removed with both held, and the lock of its use is
only tried for then: nobody waits for a lock while having one of a use exclusively.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from buildstep.system.locks import Tell, lock, try_lock


class ImageLocks:
    """The locks of the images in a pool. state: the pool's; tell: is told what is waited for."""

    def __init__(self, state: Path, tell: Tell) -> None:
        self._folder, self._tell = state / "locks", tell

    @contextlib.contextmanager
    def using(self, uuid: str) -> Iterator[None]:
        """Keep an image from being removed for the length of a block. It may be gone by the time that it is
        locked: look again then."""
        with lock(self._of_use(uuid), shared=True, tell=self._tell):
            yield

    def try_unused(self, uuid: str) -> contextlib.AbstractContextManager[bool]:
        """Keep everybody from using an image for the length of a block, unless somebody does; yields whether
        nobody does. The key is locked."""
        return try_lock(self._of_use(uuid))

    @contextlib.contextmanager
    def of_key(self, key: str) -> Iterator[None]:
        """Hold the lock of an image's key, which is imported or deleted in the block."""
        with self.try_key(key) as free:
            if free:
                yield
                return
        self._tell("waiting for another import of the same image")
        with lock(self._of_key(key), tell=self._tell):
            yield

    def try_key(self, key: str) -> contextlib.AbstractContextManager[bool]:
        """Hold the lock of an image's key for the length of a block if it is free; yields whether it is."""
        return try_lock(self._of_key(key))

    def _of_use(self, uuid: str) -> Path:
        return self._folder / f"image-use-{uuid}.lock"

    def _of_key(self, key: str) -> Path:
        return self._folder / f"image-{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.lock"
