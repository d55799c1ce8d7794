"""The device filter's program, run by a small machine of our own: what may be opened, and what may be made."""

from __future__ import annotations

import struct

import pytest

from buildstep.system import cgroup, device_filter

MKNOD, READ, WRITE = 1, 2, 4
BLOCK, CHARACTER = 1, 2


def answer(access: int, kind: int, major: int, minor: int) -> int:
    """What the program of the usual devices says; it knows the few instructions that we use."""
    words = device_filter._program(cgroup.DEVICES)
    registers = [0] * 11
    context = {0: access << 16 | kind, 4: major, 8: minor}
    at = 0
    while True:
        code, pair, jump, value = struct.unpack("=BBhi", words[at])
        to, source = pair & 15, pair >> 4
        at += 1
        match code:
            case 0x61:
                registers[to] = context[jump]
            case 0xBF:
                registers[to] = registers[source]
            case 0xB7:
                registers[to] = value
            case 0x77:
                registers[to] >>= value
            case 0x57:
                registers[to] &= value
            case 0x55:
                at += jump * (registers[to] != value)
            case 0x15:
                at += jump * (registers[to] == value)
            case 0x95:
                return registers[0]
            case _:
                pytest.fail(f"the kernel has {code:#x}, this test does not")


@pytest.mark.parametrize("access", [READ, WRITE, READ | WRITE, READ | WRITE | MKNOD])
def test_only_the_usual_devices_are_opened(access: int) -> None:
    opened = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, 0), (136, 77)]
    assert [answer(access, CHARACTER, *numbers) for numbers in opened] == [1] * len(opened)
    # mem, kmsg, tty0, console, loop-control, kvm, fuse
    closed = [(1, 1), (1, 11), (4, 0), (5, 1), (10, 237), (10, 232), (10, 229), (0, 0)]
    assert [answer(access, CHARACTER, *numbers) for numbers in closed] == [0] * len(closed)
    assert answer(access, BLOCK, 7, 0) == 0
    assert answer(access, BLOCK, 1, 3) == 0


def test_every_device_may_be_made() -> None:
    for kind in (BLOCK, CHARACTER):
        for numbers in ((7, 0), (1, 3), (0, 0), (250, 4000)):
            assert answer(MKNOD, kind, *numbers) == 1
