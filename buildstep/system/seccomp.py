"""A filter of system calls for commands in an image, in the manner of container engines, by libseccomp.

It is a second wall: the capabilities, the mounts and the namespaces that a command has refuse most of this
already, and a fault of the kernel behind one of these calls is out of reach as well. What package scripts use
is allowed; what is refused and why is in the tables below. Calls that the kernel got after this list was made
do not exist for the image, nor does another ABI than the native one and its 32-bit sister.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

from buildstep.system.files import write_all

REFUSED = {
    "keys of the kernel know no namespace": ("add_key", "keyctl", "request_key"),
    "file handles open files past the mounts": ("name_to_handle_at", "open_by_handle_at"),
    "code and tracing in the kernel": (
        "bpf", "create_module", "delete_module", "finit_module", "get_kernel_syms", "init_module",
        "kexec_file_load", "kexec_load", "lookup_dcookie", "perf_event_open", "query_module", "userfaultfd",
    ),
    "its calls are seen by no filter": ("io_uring_enter", "io_uring_register", "io_uring_setup"),
    "mounts are made by the build, not by the image": (
        "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree",
        "pivot_root", "umount", "umount2",
    ),
    "so are namespaces": ("setns",),
    "process 1 is a program of the CI host": (
        "kcmp", "pidfd_getfd", "process_vm_readv", "process_vm_writev", "ptrace",
    ),
    "the machine is the CI host's": (
        "_sysctl", "acct", "adjtimex", "clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64",
        "fanotify_init", "ioperm", "iopl", "nfsservctl", "quotactl", "quotactl_fd", "reboot", "settimeofday",
        "stime", "swapoff", "swapon", "sysfs", "syslog", "uselib", "ustat", "vhangup", "vm86", "vm86old",
    ),
}  # fmt: skip
"""Reason to calls that fail with EPERM, whatever their arguments."""

_NEW_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
"""The CLONE_NEW flags: NS, CGROUP, UTS, IPC, USER, PID, NET. A user namespace gives capabilities in it."""
_NEW_TIME = 0x80

_TERMINAL = (termios.TIOCSTI, termios.TIOCLINUX)
"""ioctls that type into a terminal: whoever reads there next runs it."""

# Unix, IPv4, IPv6 and netlink are what programs use. The others load modules when they are asked for, and one
# (vsock) reaches the hypervisor, as it knows no namespace.
_OLD_FAMILIES = (3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15)
_LAST_FAMILY = 16

_NEWEST = 456
"""The last call that is known here (futex_requeue, Linux 6.7): all systems number theirs alike since 424."""
_PRIVATE = 0xF0000
"""Where 32-bit ARM has calls of its own."""
_COMMON_NUMBERS = {"x86_64", "i686", "i586", "i386", "aarch64", "armv7l", "riscv64", "ppc64le", "s390x"}

_SISTERS = {"x86_64": 0x40000003, "aarch64": 0x40000028}
"""Machine to the AUDIT_ARCH of the 32-bit ABI that its kernels run as well."""

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_ACT_BADARCH = 2
_GREATER, _EQUAL, _MASKED = 6, 4, 7
_INT = 0xFFFFFFFF
"""The kernel looks at the lower half of these arguments only, and so does the filter."""


class Unavailable(Exception):
    """There can be no filter here; the message says why."""


class _Compare(ctypes.Structure):
    """struct scmp_arg_cmp: a comparison with an argument of the call."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("how", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class _Filter:
    """A filter being made by libseccomp: what no rule matches is allowed, another ABI is refused."""

    def __init__(self, machine: str) -> None:
        try:
            self._lib = ctypes.CDLL("libseccomp.so.2")
        except OSError:
            raise Unavailable("libseccomp is not installed") from None
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._lib.seccomp_init(ctypes.c_uint32(_ALLOW)))
        self._check(self._lib.seccomp_attr_set(self._context, _ACT_BADARCH, _refusal(errno.ENOSYS)))
        if machine in _SISTERS:
            self._check(self._lib.seccomp_arch_add(self._context, ctypes.c_uint32(_SISTERS[machine])))

    def refuse(self, name: str, code: int, *compare: tuple[int, int, int, int]) -> None:
        """Let a call fail with an error, if its arguments compare so (argument, how, first, second)."""
        number = self._lib.seccomp_syscall_resolve_name(name.encode())
        if number == -1:  # a call that this libseccomp does not know: then it is newer than _NEWEST or gone
            return
        rows = (_Compare * len(compare))(*(_Compare(*row) for row in compare))
        self._check(
            self._lib.seccomp_rule_add_array(self._context, _refusal(code), number, len(compare), rows)
        )

    def export(self) -> bytes:
        """Return the program as the kernel takes it."""
        fd = os.memfd_create("filter")
        try:
            self._check(self._lib.seccomp_export_bpf(self._context, fd))
            os.lseek(fd, 0, os.SEEK_SET)
            return os.read(fd, 1 << 20)
        finally:
            os.close(fd)
            self._lib.seccomp_release(self._context)

    @staticmethod
    def _check(code: int) -> None:
        if code != 0:
            raise Unavailable(f"libseccomp makes no filter: {os.strerror(-code)}")


def _refusal(code: int) -> ctypes.c_uint32:
    return ctypes.c_uint32(_ERRNO | code)


@functools.cache
def program() -> bytes:
    """Return the filter as the kernel takes it, made once in a process. Raises Unavailable."""
    if not Path("/proc/sys/kernel/seccomp").exists():
        raise Unavailable("this kernel has no seccomp")
    machine = os.uname().machine
    made = _Filter(machine)
    for names in REFUSED.values():
        for name in names:
            made.refuse(name, errno.EPERM)
    # Its flags lie in memory, where no filter sees them: the C library falls back to clone.
    made.refuse("clone3", errno.ENOSYS)
    clone_flags = 1 if machine == "s390x" else 0
    for flag in _NEW_NAMESPACES:
        made.refuse("clone", errno.EPERM, (clone_flags, _MASKED, flag, flag))
        made.refuse("unshare", errno.EPERM, (0, _MASKED, flag, flag))
    made.refuse("unshare", errno.EPERM, (0, _MASKED, _NEW_TIME, _NEW_TIME))
    for request in _TERMINAL:
        made.refuse("ioctl", errno.EPERM, (1, _MASKED, _INT, request))
    for family in _OLD_FAMILIES:
        made.refuse("socket", errno.EAFNOSUPPORT, (0, _EQUAL, family, 0))
    made.refuse("socket", errno.EAFNOSUPPORT, (0, _GREATER, _LAST_FAMILY, 0))
    return (_newer_calls() if machine in _COMMON_NUMBERS else b"") + made.export()


def _newer_calls() -> bytes:
    """Return the instructions of BPF before the rest that let calls after _NEWEST fail, as if unknown."""
    load, jump, leave = 0x20, 0x35, 0x06  # the call's number; at least; with a result
    rows = (
        (load, 0, 0, 0),
        (jump, 0, 2, _NEWEST + 1),
        (jump, 1, 0, _PRIVATE),
        (leave, 0, 0, _ERRNO | errno.ENOSYS),
    )
    return b"".join(struct.pack("=HBBI", *row) for row in rows)


@contextlib.contextmanager
def opened(code: bytes) -> Iterator[int]:
    """Open a filter for reading, for one command that inherits the descriptor."""
    fd = os.memfd_create("filter")
    try:
        write_all(fd, code)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)
