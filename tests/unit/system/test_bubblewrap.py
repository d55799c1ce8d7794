"""The command line that enters an image, as data; what bwrap tells; the filter of system calls."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from buildstep.errors import ToolMissing
from buildstep.system import bubblewrap, process, seccomp
from buildstep.system.bubblewrap import Entrance

ROOT = Path("/pool/clone")


@pytest.fixture(autouse=True)
def somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "program", lambda: "/usr/bin/bwrap")
    monkeypatch.setattr(bubblewrap, "_hidden", lambda: ("/proc/kcore", "/proc/keys"))


def pairs(argv: Sequence[str]) -> list[tuple[str, str]]:
    return list(itertools.pairwise(argv))


def test_every_wall_is_in_the_command_line() -> None:
    argv = Entrance(root=ROOT, prefix=("sh", "-c", "x", "sh"), seccomp=7).command(
        ["dpkg", "--configure", "-a"]
    )
    assert argv[:5] == ["sh", "-c", "x", "sh", "/usr/bin/bwrap"]
    assert argv[-4:] == ["--", "dpkg", "--configure", "-a"]
    given = set(argv)
    assert {"--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--die-with-parent"} <= given
    assert ("--cap-drop", "ALL") in pairs(argv)
    assert ("--seccomp", "7") in pairs(argv)
    order = ["--bind", "--dev-bind", "--proc", "--remount-ro", "--ro-bind"]
    assert sorted(order, key=argv.index) == order
    assert ("/dev/null", "/proc/kcore") in pairs(argv)


def test_capabilities_are_a_list_that_can_reach_nothing_of_the_host() -> None:
    argv = Entrance(root=ROOT).command(["true"])
    given = {value for option, value in pairs(argv) if option == "--cap-add"}
    assert given == {f"cap_{name}" for name in bubblewrap.CAPABILITIES}
    for name in (
        "sys_admin",
        "sys_ptrace",
        "sys_module",
        "sys_rawio",
        "net_admin",
        "net_raw",
        "dac_read_search",
    ):
        assert f"cap_{name}" not in given
    assert all(len(reason) > 20 for reason in bubblewrap.CAPABILITIES.values())


def test_only_a_command_that_asks_for_it_has_the_network() -> None:
    assert "--unshare-net" not in Entrance(root=ROOT, network_given=True).command(["true"])


def test_descriptors_to_inherit() -> None:
    assert Entrance(root=ROOT).fds == ()
    with bubblewrap.Watch() as watch:
        entrance = Entrance(root=ROOT, seccomp=9, watch=watch)
        assert entrance.fds == (9, watch.fd)
        assert ("--json-status-fd", str(watch.fd)) in pairs(entrance.command(["true"]))


def test_a_missing_bwrap_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(process, "find", lambda *_args, **_options: None)
    with pytest.raises(ToolMissing) as caught:
        bubblewrap.program()
    assert "apt-get install bubblewrap" in caught.value.hint


# -- what it tells ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "started"),
    [
        (b"", False),
        (b'{ "child-pid": 999999999 }\n', False),
        (b'{ "child-pid": 999999999 }\n{ "exit-code": 0 }\n', True),
    ],
)
def test_whether_the_program_ran(told: bytes, started: bool) -> None:
    with bubblewrap.Watch() as watch:
        os.write(watch.fd, told)
        assert watch.started() is started


@pytest.mark.commands
def test_what_is_left_is_dead_afterwards() -> None:
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    with bubblewrap.Watch() as watch:
        os.write(watch.fd, b'{ "child-pid": %d }\n' % pid)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# -- the filter ------------------------------------------------------------------------------------------


def test_the_filter_is_a_program_of_bpf_made_once() -> None:
    try:
        made = seccomp.program()
    except seccomp.Unavailable as error:
        pytest.skip(str(error))
    assert len(made) % 8 == 0
    assert 100 < len(made) // 8 < 4096  # the kernel takes no more
    assert seccomp.program() is made
    with seccomp.opened(made) as fd:
        assert os.read(fd, 1 << 20) == made


def run_filter(code: bytes, *, nr: int, arch: int, args: Sequence[int] = ()) -> int:
    """Interpret a filter as the kernel does; the errno of a refusal, 0 if allowed."""
    data = struct.pack("=IIQ6Q", nr & 0xFFFFFFFF, arch, 0, *[*args, *[0] * (6 - len(args))])
    accumulator, at = 0, 0
    while True:
        operation, yes, no, value = struct.unpack_from("=HBBI", code, at * 8)
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, value)
            case 0x54:
                accumulator &= value
            case 0x15:
                at += yes if accumulator == value else no
            case 0x25:
                at += yes if accumulator > value else no
            case 0x35:
                at += yes if accumulator >= value else no
            case 0x05:
                at += value
            case 0x06:
                return 0 if value == 0x7FFF0000 else value & 0xFFFF if value >> 16 == 5 else -1
            case _:
                raise AssertionError(f"instruction {operation:#x}")


X86_64, I386 = 0xC000003E, 0x40000003

CASES = [
    # name, number, arguments, what comes of it; on x86_64
    ("read", 0, (), 0),
    ("mount", 165, (), errno.EPERM),
    ("umount2", 166, (), errno.EPERM),
    ("keyctl", 250, (), errno.EPERM),
    ("bpf", 321, (), errno.EPERM),
    ("open_by_handle_at", 304, (), errno.EPERM),
    ("io_uring_setup", 425, (), errno.EPERM),
    ("ptrace", 101, (), errno.EPERM),
    ("setns", 308, (), errno.EPERM),
    ("clone3", 435, (), errno.ENOSYS),
    ("clone for a child", 56, (0x01200011,), 0),
    ("clone with a user namespace", 56, (0x10000011,), errno.EPERM),
    ("clone with a mount namespace", 56, (0x00020011,), errno.EPERM),
    ("unshare files", 272, (0x400,), 0),
    ("unshare a user namespace", 272, (0x10000000,), errno.EPERM),
    ("unshare time", 272, (0x80,), errno.EPERM),
    ("TIOCSTI", 16, (0, 0x5412), errno.EPERM),
    ("TIOCSTI in disguise", 16, (0, 0xF00000005412), errno.EPERM),
    ("TIOCLINUX", 16, (0, 0x541C), errno.EPERM),
    ("TCGETS", 16, (0, 0x5401), 0),
    ("a Unix socket", 41, (1,), 0),
    ("a netlink socket", 41, (16,), 0),
    ("a vsock socket", 41, (40,), errno.EAFNOSUPPORT),
    ("an X.25 socket", 41, (9,), errno.EAFNOSUPPORT),
    ("fchmodat2", 452, (), 0),
    ("listmount, too new", 458, (), errno.ENOSYS),
    ("one that is not there yet", 900, (), errno.ENOSYS),
    ("mount of x32", 0x40000000 + 165, (), errno.ENOSYS),
    ("read of x32", 0x40000000, (), errno.ENOSYS),
]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
@pytest.mark.parametrize(
    ("nr", "args", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_what_the_filter_says(nr: int, args: Sequence[int], expected: int) -> None:
    try:
        code = seccomp.program()
    except seccomp.Unavailable as error:
        pytest.skip(str(error))
    assert run_filter(code, nr=nr, arch=X86_64, args=args) == expected


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
@pytest.mark.parametrize(
    ("nr", "args", "expected"),
    [
        (21, (), errno.EPERM),  # mount
        (22, (), errno.EPERM),  # umount, which only this ABI has
        (288, (), errno.EPERM),  # keyctl
        (310, (0x10000000,), errno.EPERM),  # unshare
        (54, (0, 0x5412), errno.EPERM),  # ioctl
        (3, (), 0),  # read
    ],
)
def test_the_32_bit_abi_is_no_way_around(nr: int, args: Sequence[int], expected: int) -> None:
    try:
        code = seccomp.program()
    except seccomp.Unavailable as error:
        pytest.skip(str(error))
    assert run_filter(code, nr=nr, arch=I386, args=args) == expected
    assert run_filter(code, nr=nr, arch=0x12345678, args=args) == errno.ENOSYS


def test_without_libseccomp_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_args: object) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    seccomp.program.cache_clear()
    with pytest.raises(seccomp.Unavailable, match="libseccomp is not installed"):
        seccomp.program()
    seccomp.program.cache_clear()
