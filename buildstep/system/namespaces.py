"""Linux namespaces for a whole build, so that killing it ends its processes and its mounts.

The build is run by a child that is process 1 of its own PID namespace, lives in its own mount, IPC and UTS
namespaces and has a session keyring of its own. The parent stays outside, passes signals on and waits.
Whoever kills either of the two, even with SIGKILL, makes the kernel end everything the build started and
drop all it mounted.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
from collections.abc import Callable
from functools import partial

from buildstep.errors import SandboxError
from buildstep.system import keyring, standard_streams, terminal, userns
from buildstep.system.mounts import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_REC, mount

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000

_MS_SLAVE = 0x80000
_PR_SET_PDEATHSIG = 1

HOST_NAME = "buildstep"
"""What `hostname` prints inside a build: never the name of the CI host."""

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def supported() -> bool:
    """Return whether this process may make a build's namespaces: as root of Linux or of a user namespace.

    Root of a container may lack the right; what it can do instead is in `root_namespace`.
    """
    return sys.platform == "linux" and os.geteuid() == 0 and userns.may_mount()


def enclose(job: Callable[[], int], *, host_name: str = HOST_NAME) -> int:
    """Run `job` as process 1 of fresh namespaces and return its exit status (128+N if signal N ended it).
    host_name: what `hostname` prints there.

    Must be called before any thread is started. Raises SandboxError where the kernel refuses.
    """
    standard_streams.flush()
    alive_read, alive_write = os.pipe()
    refused_read, refused_write = os.pipe()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    try:
        _unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS)
        child = os.fork()
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for fd in (alive_read, alive_write, refused_read, refused_write):
            os.close(fd)
        raise
    if child == 0:
        os.close(alive_write)
        os.close(refused_read)
        _become_first_process(partial(_named, job, host_name), alive_read, refused_write, blocked)
    os.close(alive_read)
    os.close(refused_write)
    try:
        with terminal.kept():
            status = _attend(child, blocked)
        message, _, hint = os.read(refused_read, 4096).decode(errors="replace").partition("\n")
    finally:
        os.close(alive_write)
        os.close(refused_read)
    if message:
        raise SandboxError(message, hint=hint)
    return status


def _unshare(flags: int) -> None:
    if _libc.unshare(flags) != 0:
        code = ctypes.get_errno()
        raise SandboxError(
            f"the kernel refused new namespaces: {os.strerror(code)}",
            hint="run as root, or where the CI host is itself a container give it CAP_SYS_ADMIN",
        )


def _become_first_process(
    job: Callable[[], int], alive: int, refused: int, mask: set[int | signal.Signals]
) -> None:
    """The child's whole life: it never returns.

    alive: read end of a pipe that only the parent holds; refused: write end of one that takes what the
    kernel refused, for the parent to raise.
    """
    status = 1
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # A parent that died before that line sends no signal any more; its end of the pipe is closed then.
        if select.select([alive], [], [], 0)[0]:
            os._exit(128 + signal.SIGKILL)
        try:
            # Slaves, not private: what we mount stays here, and what the host unmounts goes here as well,
            # so that a long build does not keep a file system busy that it has nothing to do with.
            mount("none", "/", None, MS_REC | _MS_SLAVE)
            mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        except SandboxError as error:
            os.write(refused, f"{error.message}\n{error.hint}".encode()[:4096])
            os._exit(status)
        os.close(refused)
        keyring.leave_session()
        # The kernel drops signals that process 1 has no handler for. One that came since the fork, or
        # comes before the job has handlers of its own, ends us: nothing has been acquired yet.
        for signum in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, _leave)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status = job()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:  # noqa: BLE001 - the last frame of this process: show it, then leave
        sys.excepthook(*sys.exc_info())
    finally:
        standard_streams.flush()
        os._exit(status)


def _named(job: Callable[[], int], host_name: str) -> int:
    name = host_name.encode()
    _libc.sethostname(name, len(name))
    return job()


def _leave(signum: int, _frame: object) -> None:
    os._exit(128 + signum)


def _attend(child: int, mask: set[int | signal.Signals]) -> int:
    """Pass signals on to the child until it ends."""

    passed = False

    def pass_on(signum: int, _frame: object) -> None:
        nonlocal passed
        passed = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signum)

    before = {signum: signal.signal(signum, pass_on) for signum in FORWARDED}
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        while True:
            with contextlib.suppress(InterruptedError):
                _, status = os.waitpid(child, 0)
                break
    finally:
        # Once the build was told to stop, its status is ours: a later signal must not end us in between.
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_IGN if passed else handler)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
