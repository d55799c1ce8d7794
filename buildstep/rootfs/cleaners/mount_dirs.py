"""The cleaner of directories that the build made to mount on."""

from __future__ import annotations

from buildstep.rootfs.cleaners.interface import Cleaning
from buildstep.rootfs.glob import fitting


def clean(work: Cleaning) -> None:
    """Remove the directories that the build made to mount on, while they are empty."""
    for path in sorted(work.options.made, key=len, reverse=True):
        if work.root.real(path) == path and path not in work.mounted and not fitting(work.root, path, "*"):
            work.remove(path)
