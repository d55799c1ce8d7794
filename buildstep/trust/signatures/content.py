"""Bytes that are signed: of a file of any size, or at hand; each digest is computed once, on demand."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from buildstep.errors import SigningError
from buildstep.trust.keys.public import Message

_PIECE = 4 << 20

_DIGESTS = ("sha256", "sha512", "blake2b")
"""sha256: of bundles and statements; sha512: of OpenSSH's signatures; blake2b: of minisign's."""


class Content:
    """Bytes to sign or to check. data: all of them, in memory or mapped; sha256: in hex, if it is known."""

    def __init__(self, data: Message, *, sha256: str = "") -> None:
        self.data = data
        self._known: dict[str, bytes] = {"sha256": bytes.fromhex(sha256)} if sha256 else {}

    @property
    def sha256(self) -> bytes:
        return self._digest("sha256")

    @property
    def sha512(self) -> bytes:
        return self._digest("sha512")

    @property
    def blake2b(self) -> bytes:
        return self._digest("blake2b")

    def compute(self) -> None:
        """Compute all digests at once, each in a thread of its own."""
        missing = [name for name in _DIGESTS if name not in self._known]
        with ThreadPoolExecutor(max(1, len(missing)), thread_name_prefix="digest") as pool:
            self._known |= dict(zip(missing, pool.map(self._computed, missing), strict=True))

    def _digest(self, name: str) -> bytes:
        if name not in self._known:
            self._known[name] = self._computed(name)
        return self._known[name]

    def _computed(self, name: str) -> bytes:
        state = hashlib.new(name)
        with memoryview(self.data) as view:
            for begin in range(0, len(view), _PIECE):
                state.update(view[begin : begin + _PIECE])
        return state.digest()


@contextlib.contextmanager
def content_of(path: Path, *, sha256: str = "") -> Iterator[Content]:
    """Open a file for as long as a block takes. sha256: in hex, where it is known. Raises SigningError."""
    try:
        with path.open("rb") as stream:
            if not (size := os.fstat(stream.fileno()).st_size):
                yield Content(b"", sha256=sha256)
                return
            with mmap.mmap(stream.fileno(), size, prot=mmap.PROT_READ) as mapped:
                yield Content(mapped, sha256=sha256)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is no regular file"
        raise SigningError(f"cannot read {path}: {said}") from error
