"""What this machine lets a build do, found by doing it, in namespaces that are gone when it is told."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from buildstep.errors import CommandFailed, SandboxError
from buildstep.rootfs import devices as own
from buildstep.system import bubblewrap, namespaces, process, seccomp
from buildstep.system.mounts import mounted, overlay_options, tmpfs
from buildstep.system.userns import in_user_namespace

_SCRATCH = Path("/tmp")
"""Covered by a file system of ours while something is tried; only we see that."""


def apart(job: Callable[[], str]) -> str:
    """Run a job as a build runs, process 1 of fresh namespaces, and return what it returns.

    Its mounts and processes are gone then. Raises SandboxError with what it raised, or with why there can
    be no such namespaces.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _live(job, write)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        lines = stream.read().decode(errors="replace").splitlines()
    os.waitpid(child, 0)
    try:
        told = json.loads(lines[-1])
        problem, hint = told["problem"], told["hint"]
    except (IndexError, ValueError, KeyError, TypeError):
        # It ended before it could tell anything: the last line of its traceback has to do.
        problem = lines[-1].rpartition("Error: ")[2] if lines else "a process in new namespaces died at once"
        raise SandboxError(problem) from None
    if problem:
        raise SandboxError(problem, hint=hint)
    return str(told["value"])


def _live(job: Callable[[], str], write: int) -> None:
    """The child's whole life. What goes wrong goes into the pipe, not to the terminal."""
    try:
        os.dup2(write, 2)
        namespaces.enclose(lambda: _tell(write, job))
    except BaseException as error:  # noqa: BLE001 - told to the parent, which raises it
        _say(write, problem=str(error), hint=getattr(error, "hint", ""))
    finally:
        os._exit(0)


def _tell(write: int, job: Callable[[], str]) -> int:
    try:
        _say(write, value=job())
    except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
        _say(write, problem=str(error), hint=getattr(error, "hint", ""))
    return 0


def _say(write: int, *, value: str = "", problem: str = "", hint: str = "") -> None:
    row = {"value": value, "problem": problem, "hint": hint}
    os.write(write, b"\n" + json.dumps(row).encode() + b"\n")


# -- what is tried, each inside `apart` --------------------------------------------------------------------


def overlay() -> str:
    """Mount an overlay the way a clone is mounted, and write to it."""
    with tmpfs(_SCRATCH):
        for name in ("lower", "upper", "work", "tree"):
            (_SCRATCH / name).mkdir()
        options = overlay_options(
            [_SCRATCH / "lower"],
            _SCRATCH / "upper",
            _SCRATCH / "work",
            volatile=True,
            user=in_user_namespace(),
        )
        with mounted("overlay", _SCRATCH / "tree", "overlay", data=options):
            (_SCRATCH / "tree/file").touch()
    return ""


def devices() -> str:
    """Mount a /dev as an image gets one. The value tells where nodes are shown instead of made."""
    with contextlib.ExitStack() as stack:
        own.mount(stack, _SCRATCH)
        node = _SCRATCH / "null"
        node.write_bytes(b"x")
        made = node.stat().st_dev != os.stat("/dev/null").st_dev
    return "made" if made else "the agent's, shown one by one"


def command_chain() -> str:
    """Start a program the way a package manager is started in an image."""
    _run_inside(["true"])
    return ""


def seen_inside() -> str:
    """Return what a command sees that is run so: status, mounts and interfaces, a form feed between them."""
    paths = ("/proc/self/status", "/proc/self/mountinfo", "/proc/self/net/dev")
    script = 'for path; do cat "$path"; printf "\\f"; done'
    return _run_inside(["sh", "-c", script, "sh", *paths]).rstrip("\f")


def _run_inside(argv: list[str]) -> str:
    """Return what a program of this machine prints, run as one of an image's is. Raises SandboxError."""
    limits = process.Limits(20.0, answer=1 << 20)
    try:
        with contextlib.ExitStack() as stack:
            fd = None
            with contextlib.suppress(seccomp.Unavailable):
                fd = stack.enter_context(seccomp.opened(seccomp.program()))
            entrance = bubblewrap.Entrance(root=Path("/"), seccomp=fd)
            return process.run(
                entrance.command(argv), start=process.Start(fds=entrance.fds), limits=limits
            ).stdout
    except CommandFailed as error:
        said = error.detail.partition("\ncommand: ")[0].strip()
        raise SandboxError(said or error.message) from error
