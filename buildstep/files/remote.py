"""What storages on other machines share: a place here for files that will be sent."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from buildstep.system.locks import lock_directory

_PREFIX = "buildstep-store-"
_YOUNG = 60.0
"""Seconds: a directory that was made just now may not be locked yet."""


@contextlib.contextmanager
def spool() -> Iterator[Path]:
    """Return a new directory of this machine, locked as long as it is used and removed at the end.

    What processes left that were killed is removed as well. Raises OSError.
    """
    _sweep(Path(tempfile.gettempdir()))
    path = Path(tempfile.mkdtemp(prefix=_PREFIX))
    fd = lock_directory(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if fd is not None:
            os.close(fd)


def _sweep(top: Path) -> None:
    for path in top.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            info = path.lstat()
            if info.st_uid != os.geteuid() or info.st_mtime > time.time() - _YOUNG:
                continue
            if (fd := lock_directory(path)) is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(fd)
