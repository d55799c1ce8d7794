"""Become root of a user namespace: a user with the ids of its ranges, root that may not mount with all.

Most containers give their root no right to mount. In a user namespace it has it, where the kernel and what
confines the container (seccomp, AppArmor, a masked /proc) let it.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

from buildstep.errors import CommandFailed, SandboxError
from buildstep.system import namespaces, process, userns

_libc = ctypes.CDLL(None, use_errno=True)

_CLONE_NEWUSER = 0x10000000
_PR_SET_DUMPABLE = 4
_HALF = 1 << 31

REMEDY = "give the container CAP_SYS_ADMIN (`--privileged`), or let it make user namespaces and mount in them"


def is_needed() -> bool:
    """Return whether this is root without the right to mount."""
    return os.geteuid() == 0 and not userns.may_mount()


@functools.cache  # asked more than once, and it takes two processes
def refusal() -> str:
    """Return why no build can live in such a namespace, found by trying; empty if one can."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        said = ""
        try:
            enter()
            namespaces.enclose(lambda: 0)
        except SandboxError as error:
            said = error.message
        except BaseException as error:  # noqa: BLE001 - the whole life of this process: told to the parent
            said = f"{type(error).__name__}: {error}"
        os.write(write, f"{said}\n".encode(errors="replace")[:4096])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        lines = stream.read().decode(errors="replace").splitlines()
    os.waitpid(child, 0)
    return lines[0] if lines else "a process in new namespaces died at once"


def enter() -> None:
    """Make this process root of a user namespace, and of a mount namespace in it. It must have no threads.

    For root each id means the same in there, so owners of files are what they were. A user is 0 in there, and
    the first of its subordinate ids 1. Raises SandboxError where the kernel refuses.
    """
    map_ids = _identity_maps() if os.geteuid() == 0 else _own_maps()
    ready, go = os.pipe()
    told, tell = os.pipe()
    # Only a process that stays outside has the right to say more of the ids inside than its own.
    child = os.fork()
    if child == 0:
        os.close(go)
        os.close(told)
        _help(ready, tell, map_ids)
    os.close(ready)
    os.close(tell)
    try:
        failed = _libc.unshare(_CLONE_NEWUSER | namespaces.CLONE_NEWNS)
        code = ctypes.get_errno() if failed else 0
        if not failed:
            os.write(go, b"x")
    finally:
        os.close(go)
    with os.fdopen(told, "rb") as stream:
        problem = stream.read().decode(errors="replace").strip()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if failed:
        raise SandboxError(f"the kernel refused a user namespace: {os.strerror(code)}", hint=REMEDY)
    if problem or status != 0:
        raise SandboxError(f"no ids for a user namespace: {problem or f'status {status}'}", hint=REMEDY)
    # The kernel made our own /proc files the machine's root's, since what we may do has changed.
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    userns.outer_owner.cache_clear()


def _help(ready: int, tell: int, map_ids: Callable[[int], None]) -> None:
    """The helper's whole life: once the other one is in its namespace, say which ids are there."""
    try:
        if os.read(ready, 1):
            map_ids(os.getppid())
    except BaseException as error:  # noqa: BLE001 - told to the other one, which raises it
        said = error.detail.partition("\ncommand: ")[0] if isinstance(error, CommandFailed) else ""
        os.write(tell, (said.strip() or str(error)).encode(errors="replace")[:4096])
    finally:
        os._exit(0)


def _own_maps() -> Callable[[int], None]:
    """Return what gives a process the ids of this user, by the programs that may hand them out."""
    tables = (("newuidmap", os.getuid(), "/etc/subuid"), ("newgidmap", os.getgid(), "/etc/subgid"))
    words = []
    for program, own, table in tables:
        if (found := userns.range_of(Path(table))) is None:
            raise SandboxError(f"{table} has no range for this user", hint="the doctor says how")
        words.append((program, (0, own, 1, 1, *found)))

    def map_ids(pid: int) -> None:
        for program, numbers in words:
            process.query([program, str(pid), *map(str, numbers)], timeout=20.0)

    return map_ids


def _identity_maps() -> Callable[[int], None]:
    """Return what gives a process all ids that there are here, each as itself."""
    maps = {name: _identity(Path(f"/proc/self/{name}")) for name in ("uid_map", "gid_map")}

    def map_ids(pid: int) -> None:
        for name, text in maps.items():
            # The kernel takes a whole map in one write.
            fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)

    return map_ids


def _identity(table: Path) -> str:
    """Return the map by which all ids of this namespace are themselves in the next (user_namespaces(7))."""
    rows = []
    for row in table.read_text().splitlines():
        first, _, count = map(int, row.split())
        # In two rows a map of all ids can be told from that of the machine itself (`in_user_namespace`).
        rows += [(first, min(count, _HALF))] + ([(first + _HALF, count - _HALF)] if count > _HALF else [])
    return "".join(f"{first} {first} {count}\n" for first, count in rows)
