"""Layers of many packages, as the shared cache sees them: rows of members, and a newer version of one."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from buildstep.cache.remote.interface import Output
from buildstep.formats.codecs import codec

GRAIN = 64 << 10


def program(seed: int, size: int, changed: int = 0) -> bytes:
    """Return bytes that look like a program: half of them compress. changed: of each kilobyte some bytes are
    others, as in one that was compiled again."""
    state = random.Random(seed)
    data = bytearray()
    words = [state.randbytes(8) for _ in range(300)]
    while len(data) < size:
        data += state.choice(words) if state.random() < 0.6 else state.randbytes(8)
    if changed:
        other = random.Random(changed)
        for at in range(0, size - 4, 2048):
            data[at : at + 4] = other.randbytes(4)
    return bytes(data[:size])


def tree(packages: int, *, updated: int = -1, size: int = 400 << 10) -> list[bytes]:
    """Return the content of some packages, of which one may be a newer version."""
    return [program(number, size, changed=77 if number == updated else 0) for number in range(packages)]


def write_layer(path: Path, contents: list[bytes], name: str = "gzip") -> Output:
    """Write contents as a row of members, and return the output that this is."""
    pack = codec(name).compress
    data = b"".join(pack(one[at : at + GRAIN]) for one in contents for at in range(0, len(one), GRAIN))
    path.write_bytes(data)
    return Output(name="layer", digest=hashlib.sha256(data).hexdigest(), size=len(data))
