"""What was recorded of a tree the last time it was put into a store.

Where the tree has not changed since, a walk is all that a put does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import asdict
from pathlib import Path

from buildstep.files.session import StoredList
from buildstep.system import framed
from buildstep.system.files import atomic_write
from buildstep.system.private import private_dir
from buildstep.tree import stat_lines
from buildstep.tree.stat_index import GRAIN_NS
from buildstep.tree.stat_lines import Walk

_FORMAT = 2


class LastPut:
    """What was recorded of a tree the last time, and the walk that it was of.

    state: where it is kept, None: nowhere; store: the id of the store; how: all that a list depends on beside
    the tree.
    """

    def __init__(self, state: Path | None, tree: Path, store: str, how: object) -> None:
        key = repr((os.path.realpath(tree), store, how)).encode(errors="surrogateescape")
        name = hashlib.sha256(key).hexdigest()[:32]
        self._top = os.fsencode(tree)
        self._path = None if state is None else state / "index" / f"{name}.put"

    def same(self, walk: Walk) -> StoredList | None:
        """Return what was recorded, if the tree is still the same, and surely so."""
        if self._path is None or walk.unread:
            return None
        try:
            for record, _ in framed.read(self._path.read_bytes()):
                if record[0] == _FORMAT and record[1] == self._digest(walk):
                    return StoredList(**record[2])
        except (OSError, TypeError, IndexError):
            pass
        return None

    def keep(self, walk: Walk, stored: StoredList) -> None:
        """Keep what was recorded, unless a file is so young that it could have changed without a trace."""
        if self._path is None or walk.unread or not walk.lines:
            return
        # Seconds with ten decimals, of as many digits each: the latest time is the last in order, too.
        latest = stat_lines.parse(max(walk.lines, key=lambda line: line.split(b" ", 4)[3])).ctime
        if max(latest, os.lstat(self._top).st_ctime_ns) >= walk.started - GRAIN_NS:
            return
        with contextlib.suppress(OSError):
            private_dir(self._path.parent)
            with atomic_write(self._path, durable=False) as stream:
                framed.write(stream, (_FORMAT, self._digest(walk), asdict(stored)))

    def _digest(self, walk: Walk) -> str:
        top = os.stat(self._top)
        head = (top.st_dev, top.st_ino, top.st_mode, top.st_uid, top.st_gid, top.st_mtime_ns, top.st_ctime_ns)
        return hashlib.sha256(repr(head).encode() + b"\0".join(walk.lines)).hexdigest()
