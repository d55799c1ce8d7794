"""A directory of one build in a package cache: what a package manager may write to before it is checked.

work/NAME        the directory
work/NAME.lock   locked as long as the build lives
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from buildstep.errors import DatasetError
from buildstep.system.locks import create_locked, try_lock
from buildstep.system.private import private_dir
from buildstep.system.remove import remove_tree


@contextlib.contextmanager
def private_area(cache: Path) -> Iterator[Path]:
    """Make an empty directory below a package cache; it is removed at the end of the block."""
    folder = cache / "work"
    private_dir(folder)
    fd = None
    while fd is None:
        path = folder / secrets.token_hex(8)
        fd = create_locked(path.with_suffix(".lock"), 0o600)
    try:
        path.mkdir(mode=0o700)
        yield path
    finally:
        try:
            remove_tree(path)
            path.with_suffix(".lock").unlink(missing_ok=True)
        finally:
            os.close(fd)


def sweep_areas(cache: Path) -> None:
    """Remove what builds left that were killed. What cannot be removed now is tried again another time."""
    for path in (cache / "work").glob("*.lock"):
        with contextlib.suppress(OSError, DatasetError), try_lock(path, create=False) as free:
            if free:
                remove_tree(path.with_suffix(""))
                path.unlink(missing_ok=True)
