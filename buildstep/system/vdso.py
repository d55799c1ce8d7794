"""The vDSO: code of the kernel in every process, by which it tells the time without a call (vdso(7))."""

from __future__ import annotations

import functools
import struct

CALLS = {
    b"__vdso_clock_gettime": "clock_gettime", b"__vdso_gettimeofday": "gettimeofday", b"__vdso_time": "time",
    b"__kernel_clock_gettime": "clock_gettime", b"__kernel_gettimeofday": "gettimeofday",
}  # fmt: skip
"""Functions of the vDSO, and the calls that do the same."""

_DYNAMIC, _SEGMENT = 2, 1
_STRINGS, _SYMBOLS = 5, 6
_SYMBOL_SIZE = 24
_MOST_SYMBOLS = 64


def place(task: int | str) -> int:
    """Return where a process has its vDSO; 0 where it has none."""
    with open(f"/proc/{task}/maps", "rb") as stream:
        for line in stream:
            if line.endswith(b"[vdso]\n"):
                return int(line.partition(b"-")[0], 16)
    return 0


@functools.cache
def functions() -> tuple[tuple[bytes, int], ...]:
    """Return the functions of the vDSO that tell the wall clock, and where they are in it (elf(5)). All
    processes of a kernel have the same one."""
    begin = place("self")
    if not begin:
        return ()
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        memory.seek(begin)
        data = memory.read(2 * 4096)
    first, count = *struct.unpack_from("<Q", data, 32), *struct.unpack_from("<H", data, 56)
    base, tables = 0, {}
    for at in range(first, first + 56 * count, 56):
        kind, _, offset, address, _, size = struct.unpack_from("<IIQQQQ", data, at)
        if kind == _SEGMENT:
            base = address - offset
        elif kind == _DYNAMIC:
            tables = dict(struct.iter_unpack("<qQ", data[offset : offset + size]))
    found = []
    for number in range(_MOST_SYMBOLS):
        at = tables[_SYMBOLS] - base + number * _SYMBOL_SIZE
        name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", data, at)
        text = data[tables[_STRINGS] - base + name :].partition(b"\0")[0]
        if text in CALLS:
            found.append((text, value - base))
        if at + 2 * _SYMBOL_SIZE > len(data):
            break
    return tuple(found)
