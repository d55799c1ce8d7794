"""Where what is kept on this machine lies, if nobody names another place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SYSTEM_LOCATION = "/var/lib/buildstep"


def default_location(environ: Mapping[str, str]) -> Path:
    """Where pools, stores and services are kept: the system's place for root, the user's data folder for
    anybody else, also for root of a container that may not mount."""
    if os.geteuid() == 0:
        from buildstep.system import userns

        if userns.may_mount() and not userns.in_user_namespace():
            return Path(SYSTEM_LOCATION)
    data = environ.get("XDG_DATA_HOME") or os.path.join(environ.get("HOME", "/tmp"), ".local", "share")
    return Path(data) / "buildstep"
