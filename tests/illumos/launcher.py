"""Run a Python program as if the system were illumos: `launcher.py TOP -P -m MODULE ARGUMENT...`.

Only what the system is gets replaced, and nothing of the program but the place of the table of mounts, which
cannot be put into /etc here. What illumos lacks is taken away: Python's calls that Linux alone has, /proc as
Linux has it, and the system calls that make mounts and namespaces. A program that reaches for them fails.
"""

from __future__ import annotations

import errno
import os
import runpy
import sys
from pathlib import Path

VERSION = "joyent_20210826T002459Z"

LACKING = (
    "O_PATH", "O_TMPFILE", "listxattr", "getxattr", "setxattr", "removexattr", "copy_file_range", "splice",
    "sched_getaffinity", "memfd_create", "eventfd", "pidfd_open", "XATTR_CREATE", "XATTR_REPLACE",
)  # fmt: skip

SYSTEM_CALLS = {"mount", "umount2", "unshare", "setns", "prctl", "syscall", "statfs", "syncfs", "renameat2"}


def lack(event: str, args: tuple[object, ...]) -> None:
    """An audit hook by which calls fail as they would where there is no such file or function."""
    if event in ("open", "os.listdir", "os.scandir") and isinstance(args[0], str | bytes):
        path = os.fsdecode(args[0])
        if path.startswith(("/proc/", "/sys/")):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if event == "ctypes.dlsym" and args[1] in SYSTEM_CALLS:
        raise AttributeError(f"illumos has no {args[1]}")


def main() -> None:
    top, words = Path(sys.argv[1]), sys.argv[2:]
    module = words[words.index("-m") + 1]
    sys.platform = "sunos5"
    uname = os.uname_result(("SunOS", "agent-1", "5.11", VERSION, "i86pc"))
    os.uname = lambda: uname
    for name in LACKING:
        if hasattr(os, name):
            delattr(os, name)
    sys.addaudithook(lack)
    from buildstep.system import host, mount_table

    assert host.HERE is host.ILLUMOS
    mount_table.MNTTAB = top / "mnttab"
    sys.argv = [module, *words[words.index("-m") + 2 :]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
