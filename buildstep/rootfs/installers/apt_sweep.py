"""Tidy up a package cache of apt's: old layouts, lists that were replaced, what killed builds left."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from buildstep.errors import DatasetError
from buildstep.rootfs.glob import matches
from buildstep.rootfs.installers import apt_lists
from buildstep.rootfs.installers.apt_settings import ENV
from buildstep.rootfs.installers.common import failures
from buildstep.rootfs.installers.private_area import sweep_areas
from buildstep.rootfs.interface import Sandbox
from buildstep.system.locks import try_lock
from buildstep.system.remove import remove_tree

_OLD = ("archives", "parsed")
"""Directories of the layout before this one, which commands in images could write to."""


def sweep(cache: Path) -> None:
    """Remove what no build will use again, unless a build uses the cache now."""
    with try_lock(cache / "lock") as free:
        if not free:
            return
        sweep_areas(cache)
        for path in (*(cache / name for name in _OLD), *_old_lists(cache / "lists"), *_replaced(cache)):
            with contextlib.suppress(OSError, DatasetError):
                remove_tree(path)


def _old_lists(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from (folder / name for name in os.listdir(folder) if not re.fullmatch("[0-9a-f]{64}", name))


def _replaced(cache: Path) -> Iterator[Path]:
    for folder in kept_keys(cache):
        yield from apt_lists.generations(folder)[1:]


def kept_keys(cache: Path) -> list[Path]:
    """Return the directories of kept lists, one for each base image and its apt's settings."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(path for path in (cache / "lists").iterdir() if path.is_dir())
    return []


def kept_lists(cache: Path) -> list[Path]:
    """Return the directories of kept lists that a build may use."""
    return [folder for key in kept_keys(cache) for folder in apt_lists.generations(key)]


def discard(cache: Path, path: Path) -> bool:
    """Remove kept lists or a kept package file, unless a build uses the cache. Returns whether it is gone."""
    with contextlib.suppress(OSError, DatasetError), try_lock(cache / "lock") as free:
        if free:
            remove_tree(path)
            return True
    return False


_OWN_CACHE = ("/var/cache/apt/archives/*.deb", "/var/cache/apt/archives/partial/*", "/var/cache/apt/*.bin")
"""What `apt-get clean` removes; see apt-get(8)."""


def clean(sandbox: Sandbox) -> None:
    """Empty the cache that an image has of its own, if anything is in it.

    The shared one is never in its place: it is as the base image has it, which mostly is empty, and to enter
    the root for that costs more than to look.
    """
    if not any(True for pattern in _OWN_CACHE for _ in matches(sandbox.root, pattern)):
        return
    with failures("apt-get clean", ()):
        sandbox.run(["apt-get", "clean"], env=ENV, what="apt-get clean")
