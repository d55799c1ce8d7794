"""What holds where nothing is named: a directory, a file, and this machine's own name."""

from __future__ import annotations

import os
from collections.abc import Mapping

from buildstep.system.location import default_location


def default_assets(environ: Mapping[str, str]) -> str:
    """Return the store of assets that is used where none is named: beside this user's pools."""
    return f"dir:{default_location(environ)}/assets"


def default_register(environ: Mapping[str, str]) -> str:
    """Return the register of mappings that is used where none is named."""
    return f"file:{default_location(environ)}/mappings.toml"


def default_install_dir(environ: Mapping[str, str]) -> str:
    """Return where a host keeps its services where no place is named; daybook has /tmp there."""
    return f"{default_location(environ)}/services"


def this_host() -> str:
    """Return the name of this machine as its kernel has it, which is what daybook takes."""
    return os.uname().nodename
