"""Directories that nobody but their owner may enter: modes are the wall around what is not yet trusted."""

from __future__ import annotations

import os
from pathlib import Path

OTHERS = 0o077
"""What of a mode is for the group and for others."""


def private_dir(path: Path) -> None:
    """Make a directory that only its owner may enter, whatever the umask, and any missing above it.

    One that is there stays as it is. Raises OSError.
    """
    try:
        _make(path)
    except FileNotFoundError:
        if path.parent == path:  # the working directory is gone
            raise
        private_dir(path.parent)
        _make(path)  # once: in /proc nothing can be made though what is above is there


def _make(path: Path) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not path.is_dir():
            raise


def private_file(path: Path) -> None:
    """Make an empty file that only its owner may read; set the times of one that is there. Raises OSError."""
    path.touch(mode=0o600)
