"""Which devices a control group of version 2 may open: a small program, as container engines give the kernel.

Version 1 has files for it (`cgroup`). Version 2 asks a BPF program (bpf(2), BPF_PROG_TYPE_CGROUP_DEVICE) each
time a process of the group opens or makes a device; it answers 1 for yes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)

_SYSCALL: Final = {"x86_64": 321, "ppc64le": 361, "s390x": 351}
"""The number of bpf(2), where it is not that of newer architectures."""
_SYSCALL_ELSEWHERE: Final = 280

_PROG_LOAD, _PROG_ATTACH = 5, 8
_CGROUP_DEVICE_PROGRAM, _CGROUP_DEVICE, _ALLOW_MULTI = 15, 6, 2

# Of struct bpf_cgroup_dev_ctx: what is done is in the upper half of the first word, the kind in the lower.
_ACCESS, _MAJOR, _MINOR = 0, 4, 8
_ACCESS_MKNOD, _KIND_CHARACTER = 1, 2

# Opcodes, of 64 bits where there is a choice.
_LOAD, _MOVE, _SET, _SHIFT, _AND, _IF_NOT, _IF, _EXIT = 0x61, 0xBF, 0xB7, 0x77, 0x57, 0x55, 0x15, 0x95
_ANSWER, _CONTEXT, _KIND, _DONE, _R4, _R5 = range(6)


def _program(devices: Sequence[tuple[int, int | None]]) -> list[bytes]:
    """Return the program: everything may be made, and these character devices opened (minor None: all)."""

    def word(code: int, to: int, source: int = 0, jump: int = 0, value: int = 0) -> bytes:
        return struct.pack("=BBhi", code, to | source << 4, jump, value)

    allow = [word(_SET, _ANSWER, value=1), word(_EXIT, 0)]
    found = [
        word(_LOAD, _KIND, _CONTEXT, _ACCESS),
        word(_MOVE, _DONE, _KIND),
        word(_SHIFT, _DONE, value=16),
        word(_AND, _KIND, value=0xFFFF),
        word(_LOAD, _R4, _CONTEXT, _MAJOR),
        word(_LOAD, _R5, _CONTEXT, _MINOR),
        word(_IF_NOT, _DONE, jump=len(allow), value=_ACCESS_MKNOD),
        *allow,
        word(_IF, _KIND, jump=2, value=_KIND_CHARACTER),
        word(_SET, _ANSWER, value=0),
        word(_EXIT, 0),
    ]
    for major, minor in devices:
        tests = [] if minor is None else [word(_IF_NOT, _R5, jump=len(allow), value=minor)]
        found += [word(_IF_NOT, _R4, jump=len(tests) + len(allow), value=major), *tests, *allow]
    return [*found, word(_SET, _ANSWER, value=0), word(_EXIT, 0)]


def attach(group: Path, devices: Sequence[tuple[int, int | None]]) -> None:
    """Let the processes of a group open these character devices and no others. Making them is allowed.

    Raises OSError where the kernel refuses, which it does to all but the machine's root. The program goes
    with the group.
    """
    with contextlib.ExitStack() as stack:
        program = load(devices)
        stack.callback(os.close, program)
        folder = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, folder)
        _bpf(_PROG_ATTACH, struct.pack("=IIII", folder, program, _CGROUP_DEVICE, _ALLOW_MULTI))


def possible() -> bool:
    """Return whether the kernel takes such programs from us."""
    try:
        os.close(load(()))
    except OSError:
        return False
    return True


def load(devices: Sequence[tuple[int, int | None]]) -> int:
    """Hand the program for these devices to the kernel and return its descriptor. Raises OSError."""
    words = _program(devices)
    text = ctypes.create_string_buffer(b"".join(words))
    licence = ctypes.create_string_buffer(b"MIT")
    head = struct.pack(
        "=IIQQ", _CGROUP_DEVICE_PROGRAM, len(words), ctypes.addressof(text), ctypes.addressof(licence)
    )
    return _bpf(_PROG_LOAD, head)


def _bpf(command: int, attributes: bytes) -> int:
    # The kernel takes what is missing at the end of the attributes for zeros.
    given = ctypes.create_string_buffer(attributes, len(attributes))
    number = _SYSCALL.get(os.uname().machine, _SYSCALL_ELSEWHERE)
    result = int(_libc.syscall(number, command, given, len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "bpf")
    return result
