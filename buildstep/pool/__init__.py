"""The table of backends, and the choice of a pool when none is named."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from buildstep.errors import Fault, SpecError
from buildstep.pool import overlay
from buildstep.pool.interface import Backend
from buildstep.pool.layout import MARK
from buildstep.system import host
from buildstep.system.registry import Registry, importing
from buildstep.system.userns import in_user_namespace

BACKENDS: Registry[Callable[[str], Backend]] = Registry(
    "backends",
    "pool",
    {
        "overlay": importing("buildstep.pool.overlay:OverlayBackend"),
        "dir": importing("buildstep.pool.directory:DirectoryBackend"),
        "btrfs": importing("buildstep.pool.btrfs:BtrfsBackend"),
        "zfs": importing("buildstep.pool.zfs:ZfsBackend"),
    },
)
"""By the scheme of a pool's URI; called with the rest of it."""

SYSTEM_LOCATION = "/var/lib/buildstep"


def open_pool(uri: str) -> Backend:
    """Return the pool of a URI such as overlay:/var/lib/buildstep. Raises SpecError or DatasetError."""
    scheme, _, location = uri.partition(":")
    backend = BACKENDS.find(scheme) if location else None
    if backend is None:
        raise SpecError(
            "pool",
            [
                Fault(
                    where="--pool",
                    message=f"{uri!r} is not SCHEME:LOCATION",
                    hint=BACKENDS.hint(scheme),
                )
            ],
        )
    return backend(location)


def default_location(environ: Mapping[str, str]) -> Path:
    """Where pools are kept: the system's place for root, the user's data folder for anybody else."""
    if os.geteuid() == 0 and not in_user_namespace():
        return Path(SYSTEM_LOCATION)
    data = environ.get("XDG_DATA_HOME") or os.path.join(environ.get("HOME", "/tmp"), ".local", "share")
    return Path(data) / "buildstep"


def detect(environ: Mapping[str, str]) -> str:
    """Return the URI of the best pool that this machine can have; changes nothing.

    In an illumos zone that is the dataset it was given; elsewhere overlay, else dir. Raises DatasetError in
    a zone that was given none.
    """
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
