"""Root that may not mount, as in most containers: it can be root of a user namespace that has the same ids.

There it may mount, where the kernel and what confines the container (seccomp, AppArmor, a masked /proc) let
it.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from pathlib import Path

from buildstep.errors import SandboxError
from buildstep.system import namespaces, userns

_libc = ctypes.CDLL(None, use_errno=True)

_CLONE_NEWUSER = 0x10000000
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
    """Make this process root of a user namespace and of a mount namespace in it. It must have no threads.

    Each id that there is here means the same in there, so owners of files are what they were. Raises
    SandboxError where the kernel refuses.
    """
    maps = {name: _identity(Path(f"/proc/self/{name}")) for name in ("uid_map", "gid_map")}
    read, write = os.pipe()
    # Only a process that stays outside has the right to say more of the ids inside than its own.
    child = os.fork()
    if child == 0:
        os.close(write)
        _write_maps(read, os.getppid(), maps)
    os.close(read)
    try:
        failed = _libc.unshare(_CLONE_NEWUSER | namespaces.CLONE_NEWNS)
        code = ctypes.get_errno() if failed else 0
        if not failed:
            os.write(write, b"x")
    finally:
        os.close(write)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if failed:
        raise SandboxError(f"the kernel refused a user namespace: {os.strerror(code)}", hint=REMEDY)
    if status != 0:
        why = os.strerror(status) if status > 0 else f"signal {-status}"
        raise SandboxError(f"the kernel refused ids for a user namespace: {why}", hint=REMEDY)


def _write_maps(ready: int, process: int, maps: dict[str, str]) -> None:
    """The helper's whole life: once the other one is in its namespace, say which ids are there."""
    status = 0
    try:
        if os.read(ready, 1):
            for name, text in maps.items():
                # The kernel takes a whole map in one write.
                fd = os.open(f"/proc/{process}/{name}", os.O_WRONLY | os.O_CLOEXEC)
                os.write(fd, text.encode())
                os.close(fd)
    except OSError as error:
        status = error.errno or errno.EIO
    finally:
        os._exit(status)


def _identity(table: Path) -> str:
    """Return the map by which all ids of this namespace are themselves in the next (user_namespaces(7))."""
    rows = []
    for row in table.read_text().splitlines():
        first, _, count = map(int, row.split())
        # In two rows a map of all ids can be told from that of the machine itself (`in_user_namespace`).
        rows += [(first, min(count, _HALF))] + ([(first + _HALF, count - _HALF)] if count > _HALF else [])
    return "".join(f"{first} {first} {count}\n" for first, count in rows)
