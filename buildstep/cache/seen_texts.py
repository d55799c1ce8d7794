"""Files that were looked through, and in which nothing was found: none of them is read again.

state/artifacts/texts-NAME.bin    of one component: a framed record of what was looked for, and one of the
                                  digests of the files, one after the other
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from buildstep.system import framed
from buildstep.system.files import atomic_write
from buildstep.system.private import private_dir

FEW = 1000
"""Files that are read faster than it takes to keep something about them."""

_SIZE = 32


def load(state: Path, component: str, sought: str) -> frozenset[bytes]:
    """Return the digests of files in which this was sought, and not found, by the component's last build."""
    try:
        data = _path(state, component).read_bytes()
    except OSError:
        return frozenset()
    values = [value for value, _ in framed.read(data)]
    if len(values) != 2 or values[0] != sought or not isinstance(values[1], bytes):
        return frozenset()
    digests = values[1]
    return frozenset(digests[at : at + _SIZE] for at in range(0, len(digests), _SIZE))


def save(state: Path, component: str, sought: str, digests: Collection[bytes]) -> None:
    """Keep these digests for the next build, in place of those of the last one. Raises OSError."""
    path = _path(state, component)
    private_dir(path.parent)
    with atomic_write(path, durable=False) as stream:
        framed.write(stream, sought)
        framed.write(stream, b"".join(sorted(digests)))


def _path(state: Path, component: str) -> Path:
    return state / "artifacts" / f"texts-{hashlib.sha256(component.encode()).hexdigest()[:32]}.bin"
