"""Starting the host's tools: argv lists, nothing left running, the last output kept for the message."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.guest.errors import GuestError

TAIL_LINES = 40

# A child dies with us, even when we are killed. For builds, its own process and mount namespace
# makes that true of everything it started, and keeps its mounts from the host.
DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
CONTAINED = (*DIE_WITH_US, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """The last lines of a log."""
    return "\n".join(text.splitlines()[-lines:])


def need(tool: str) -> None:
    """Raise unless `tool` can be started."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    if shutil.which(tool, path=path) is None:
        raise GuestError(
            f"{tool} is not installed",
            hint="install what packages.txt lists: bin/deps",
        )


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment with the system folders on PATH and messages in English."""
    path = os.environ.get("PATH", os.defpath)
    return {**os.environ, "PATH": f"{path}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8", **(extra or {})}


def output(
    argv: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> str:
    """Run a command and return its stdout; its last output, stderr too, is in the error it raises."""
    words = [os.fspath(word) for word in argv]
    need(words[0])
    child = subprocess.Popen(
        words,
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # File names may be any bytes; this is how os.fsencode finds them again.
        errors="surrogateescape",
    )
    try:
        out, err = child.communicate(stdin)
    except BaseException:
        child.kill()
        # Its descendants hold these pipes: at their end nobody writes to our folders any more.
        with suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=10)
        raise
    if child.returncode:
        printable = (out + err).encode(errors="surrogateescape").decode(errors="replace")
        raise GuestError(
            f"command ended with status {child.returncode}: {shlex.join(words)}",
            detail=tail(printable),
        )
    return out
