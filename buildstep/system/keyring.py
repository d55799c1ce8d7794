"""A session keyring of a build's own: the kernel's keys know no namespace and pass to every child."""

from __future__ import annotations

import ctypes
import os

_KEYCTL = {
    "x86_64": 250, "aarch64": 219, "riscv64": 219, "i386": 288, "i586": 288, "i686": 288, "armv7l": 311,
    "ppc64le": 271, "s390x": 280,
}  # fmt: skip
"""Machine to the number of the system call, for which the C library has no function."""

_JOIN_SESSION_KEYRING = 1


def leave_session() -> bool:
    """Put this process, and all that it starts, into a fresh keyring without a name.

    What the CI host's session holds (tickets, keys of file systems) is not theirs any more. Returns whether
    the kernel did so: one without keyrings has none to leave.
    """
    number = _KEYCTL.get(os.uname().machine)
    if number is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return bool(libc.syscall(ctypes.c_long(number), ctypes.c_long(_JOIN_SESSION_KEYRING), None) > 0)
