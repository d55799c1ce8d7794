"""The table of backends, and the choice of a pool when none is named."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from buildstep.errors import Fault, SpecError
from buildstep.pool import directory, overlay
from buildstep.pool.interface import Backend
from buildstep.pool.layout import MARK
from buildstep.system import host
from buildstep.system.userns import in_user_namespace


def _btrfs(location: str) -> Backend:
    from buildstep.pool.btrfs import BtrfsBackend

    return BtrfsBackend(location)


def _zfs(location: str) -> Backend:
    from buildstep.pool.zfs import ZfsBackend

    return ZfsBackend(location)


BACKENDS: dict[str, Callable[[str], Backend]] = {
    "overlay": overlay.OverlayBackend,
    "dir": directory.DirectoryBackend,
    "btrfs": _btrfs,
    "zfs": _zfs,
}

SYSTEM_LOCATION = "/var/lib/buildstep"


def open_pool(uri: str) -> Backend:
    """The pool of a URI such as overlay:/var/lib/buildstep. Raises SpecError or DatasetError."""
    scheme, colon, location = uri.partition(":")
    if not colon or not location or scheme not in BACKENDS:
        raise SpecError(
            "pool",
            [
                Fault(
                    where="--pool",
                    message=f"{uri!r} is not SCHEME:LOCATION",
                    hint=f"schemes: {', '.join(BACKENDS)}",
                )
            ],
        )
    return BACKENDS[scheme](location)


def default_location(environ: Mapping[str, str]) -> Path:
    """Where pools are kept: the system's place for root, the user's data folder for anybody else."""
    if os.geteuid() == 0 and not in_user_namespace():
        return Path(SYSTEM_LOCATION)
    data = environ.get("XDG_DATA_HOME") or os.path.join(environ.get("HOME", "/tmp"), ".local", "share")
    return Path(data) / "buildstep"


def detect(environ: Mapping[str, str]) -> str:
    """The URI of the best pool that this agent can have: a dataset that an illumos zone was given; elsewhere
    overlay, else dir. Changes nothing. Raises DatasetError in a zone that was given none."""
    if (given := host.HERE.pool()) is not None:
        return given
    location = default_location(environ)
    if os.geteuid() != 0:
        return f"dir:{location}/dir"
    if in_user_namespace():
        # Its trees have owners that the same user cannot handle outside of the namespace.
        return f"dir:{location}/dir-subids"
    if (location / "overlay" / MARK).exists():
        return f"overlay:{location}/overlay"
    there = next(path for path in (location, *location.parents) if path.is_dir())
    return f"overlay:{location}/overlay" if overlay.works_on(there) else f"dir:{location}/dir"
