"""The table of backends, and the one rule by which a pool is found (`choose`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from buildstep.errors import Fault, SpecError
from buildstep.pool.choice import Choice, Older, choose
from buildstep.system.location import SYSTEM_LOCATION, default_location
from buildstep.system.registry import Registry, importing

if TYPE_CHECKING:
    from buildstep.pool.interface import Backend

__all__ = ["BACKENDS", "SYSTEM_LOCATION", "Choice", "Older", "choose", "default_location", "open_pool"]

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
