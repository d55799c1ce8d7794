"""The directories of a store on this machine: each is looked at once, and none may be a link.

A link in the place of one, such as `objects/ab`, would make us read and write elsewhere, as root anywhere.
Whoever can put one there after we looked owns the store, or it is one that we do not write to; and what is
read is compared with its digest.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from buildstep.errors import StoreError


class RealFolders:
    """top: of the store; it may be a link itself, as whoever names the store sees it."""

    def __init__(self, top: Path) -> None:
        self._top = os.fspath(top)
        self._known = {""}

    def check(self, folder: str) -> bool:
        """Tell whether a directory is there. folder: below the top, without a slash at either end.

        Raises StoreError where it, or one above it, is a link; OSError.
        """
        if folder in self._known:
            return True
        if not self.check(folder.rpartition("/")[0]):
            return False
        path = f"{self._top}/{folder}"
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        if stat.S_ISLNK(mode):
            raise StoreError(
                f"{path} is a link where a directory of the store should be, and is not followed",
                hint="who made it? to keep a part of the store elsewhere, mount that in its place",
            )
        if not stat.S_ISDIR(mode):
            return False
        self._known.add(folder)
        return True

    def check_above(self, name: str) -> bool:
        """Tell whether the directory of a blob is there; see `check`."""
        return self.check(name.rpartition("/")[0])
