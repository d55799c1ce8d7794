"""TCP ports that are listened on, and by which processes: /proc/net/tcp and tcp6, see proc_net(5)."""

from __future__ import annotations

import os
import pwd
import socket
import time
from collections.abc import Collection
from typing import NamedTuple

from buildstep.services.runtime import proc

_LISTEN = "0A"
_NAP = 0.05


class Listener(NamedTuple):
    """A socket that listens. inode: by which it is found among a process's descriptors."""

    port: int
    inode: str
    uid: int


def listeners(ports: Collection[int]) -> list[Listener]:
    """Return the sockets that listen on some ports, whatever their address."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in proc.read_bytes(f"/proc/net/{table}").decode().splitlines()[1:]:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == _LISTEN and port in ports:
                found.append(Listener(port, fields[9], int(fields[7])))
    return found


def sockets_of(pid: int) -> set[str]:
    """Return the inodes of a process's sockets; none of one that is not ours to look into."""
    found = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        pass  # it has ended, or is another user's
    return found


def held_by_others(wanted: Collection[int], own: Collection[int]) -> dict[int, str]:
    """Return who holds some ports and is none of our processes, in words, by port."""
    ours = {inode for pid in own for inode in sockets_of(pid)}
    others = [one for one in listeners(wanted) if one.inode not in ours]
    if not others:
        return {}
    held: dict[str, int] = {}
    inodes = {one.inode for one in others}
    for pid in proc.table():
        for inode in sockets_of(pid) & inodes:
            held.setdefault(inode, pid)
    return {one.port: _holder(held.get(one.inode), one.uid) for one in others}


def own_ports(wanted: Collection[int], own: Collection[int]) -> set[int]:
    """Return those of some ports that our processes listen on."""
    if not own:
        return set()
    found = listeners(wanted)
    ours = {inode for pid in own for inode in sockets_of(pid)} if found else set()
    return {one.port for one in found if one.inode in ours}


def _holder(pid: int | None, uid: int) -> str:
    if pid is not None:
        return f"pid {pid} ({proc.name_of(pid)})"
    try:
        return f"a process of the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"a process of the user {uid}"


def wait(port: int, seconds: float, address: str = "") -> bool:
    """Wait until a port is listened on, here or at an address; return whether it is."""
    end = time.monotonic() + seconds
    while not (_answers(address, port) if address else listeners([port])):
        if time.monotonic() > end:
            return False
        time.sleep(_NAP)
    return True


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=1.0):
            return True
    except OSError:
        return False
