"""An ordinary user's command that becomes root of a user namespace, where the user's pool is used from."""

from __future__ import annotations

import os
from pathlib import Path

from buildstep import pool as pools
from buildstep.errors import SandboxError, ToolMissing
from buildstep.spec import config as configs
from buildstep.system import root_namespace, userns


def enter(pool: str | None, *, packages: bool = False) -> None:
    """Become root of a user namespace if the pool of this command asks for that.

    Every command that opens a pool calls this first, so that all of them find the same one. pool: the URI of
    a flag, None for the configured one or the rule's. packages: this build installs some, or runs commands in
    the image, for which there must be a namespace.

    Root that may not mount, as in most containers, becomes root of one that it may mount in, if it can; else
    it is as any user who has none.

    Raises ToolMissing or SandboxError saying all that is lacking, and SpecError for a configuration that is
    none.
    """
    if os.geteuid() == 0 and not root_namespace.is_needed():
        return
    config = configs.load(os.environ, Path.cwd(), pool=pool)
    if not pools.choose(config.pool, os.environ, by=config.pool_from).namespace:
        if not packages:
            return
        _refuse_lacking()
    root_namespace.enter()


def _refuse_lacking() -> None:
    if lacks := userns.lacks():
        kind = SandboxError if os.geteuid() == 0 else ToolMissing
        raise kind(
            "packages are installed, and commands in the image run, as root or in a user namespace, and this"
            " user can have none",
            detail=userns.told(lacks),
            hint="run as root, or add what is missing; a build without both needs neither",
        )
