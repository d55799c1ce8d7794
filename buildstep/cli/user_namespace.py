"""An ordinary user's command that becomes root of a user namespace, where the user's pool is used from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from buildstep import pool as pools
from buildstep.errors import SandboxError, ToolMissing
from buildstep.spec import config as configs
from buildstep.system import process, root_namespace, standard_streams, userns


def enter(pool: str | None, *, packages: bool = False, stdin: str = "") -> None:
    """Start this command again in a user namespace if its pool asks for one; else return.

    Every command that opens a pool calls this first, so that all of them find the same one. pool: the URI of
    a flag, None for the configured one or the rule's. packages: this build installs some, or runs commands in
    the image, for which there must be a namespace. stdin: what was read from standard input; the new command
    can read it again.

    Root that may not mount, as in most containers, becomes root of one that it may mount in, if it can; else
    it is as any user who has no namespace.

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
    if os.geteuid() == 0:
        root_namespace.enter()
        return
    if stdin:
        _give_back(stdin)
    standard_streams.flush()
    command = userns.enter_argv(sys.executable, "-P", "-m", "buildstep", *sys.argv[1:])
    program = process.which(command[0])
    # newuidmap and what else is started there is looked for as our own programs are.
    environ = {**os.environ, "PATH": process.search_path(os.environ), **standard_streams.inherited()}
    os.execve(program, command, environ)  # noqa: S606 - this process becomes it: nothing is left to watch


def _refuse_lacking() -> None:
    if lacks := userns.lacks():
        kind = SandboxError if os.geteuid() == 0 else ToolMissing
        raise kind(
            "packages are installed, and commands in the image run, as root or in a user namespace, and this"
            " user can have none",
            detail=userns.told(lacks),
            hint="run as root, or add what is missing; a build without both needs neither",
        )


def _give_back(text: str) -> None:
    """Make a text what standard input has. An argument would be seen by all, and has a limit."""
    fd = os.memfd_create("stdin")
    with os.fdopen(fd, "wb") as stream:
        stream.write(text.encode())
        stream.seek(0)
        os.dup2(fd, 0)
