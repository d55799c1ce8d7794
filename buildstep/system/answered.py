"""Answer some system calls of a child and of all that it starts, by seccomp's user notifications.

What a program cannot be given by its environment is changed on its way from the kernel: in which order a
directory is listed, which day it is, which kernel this is. A preloaded library could not do it: programs may
be static, and package scripts run in the root of an image, with another C library. Nothing is mounted for it.

The child installs a filter before it does anything else; its parent reads the notifications and answers them
(seccomp_unotify(2), getdents(2), uname(2)). Clocks are read without a system call, in the vDSO (vdso(7)). So
in a process of the image the functions of that are overwritten, as it starts, by ones that make the call.
Times that the kernel gives to files stay as they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from buildstep.system import standard_streams, vdso

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class _Machine:
    """What differs between processors. audit: its AUDIT_ARCH; numbers: of calls; seccomp: that of seccomp(2);
    call: returns the code of a function that makes a call and returns what that does."""

    audit: int
    numbers: Mapping[str, int]
    seccomp: int
    call: Callable[[int], bytes]


_MACHINES = {
    "x86_64": _Machine(
        0xC000003E,
        {
            "getdents64": 217, "uname": 63, "clock_gettime": 228, "gettimeofday": 96, "time": 201,
            "set_tid_address": 218,
        },
        317,
        lambda number: b"\xb8" + struct.pack("<I", number) + b"\x0f\x05\xc3",  # mov eax, N; syscall; ret
    ),
    "aarch64": _Machine(
        0xC00000B7,
        {"getdents64": 61, "uname": 160, "clock_gettime": 113, "gettimeofday": 169, "set_tid_address": 96},
        277,
        # movz x8, N; svc 0; ret
        lambda number: struct.pack("<III", 0xD2800008 | number << 5, 0xD4000001, 0xD65F03C0),
    ),
}  # fmt: skip

_PIDFD_GETFD = 438
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ARCH, _NUMBER, _FIRST_ARGUMENT = 4, 0, 16
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_CONTINUE = 1
_RECEIVE, _ANSWER, _STILL = 0xC0502100, 0xC0182101, 0x40082102
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_WALL_CLOCKS = (0, 5)
"""CLOCK_REALTIME and its coarse sister; no other clock knows the day."""
_PR_SET_PDEATHSIG = 1
_BUFFER = 1 << 16
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """What is changed. reverse: directories are listed the other way round; seconds: that the wall clock of
    programs in an image is ahead; kernel: the release that these are told, empty for the true one; host: the
    name of the host, as they are told that by the same call."""

    reverse: bool = False
    seconds: int = 0
    kernel: str = ""
    host: str = ""

    def __bool__(self) -> bool:
        return bool(self.reverse or self.seconds or self.kernel)


def why_not() -> str:
    """Return why calls cannot be answered on this machine; empty if they can."""
    machine = os.uname().machine
    if machine not in _MACHINES:
        return f"the calls of {machine} are not known"
    if os.geteuid() != 0:
        return "only root may answer system calls"
    return "" if os.path.exists("/proc/sys/kernel/seccomp") else "this kernel has no seccomp"


def run(changed: Changed, job: Callable[[], int]) -> int:
    """Run a job in a child whose system calls are answered, and return its status (128+N of signal N).

    Signals are passed on to it. To be called before any thread is started. Raises OSError where the kernel
    refuses the filter.
    """
    standard_streams.flush()
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        ours.close()
        _become(changed, job, theirs, parent)
    theirs.close()
    with contextlib.closing(ours):
        message, fds, _, _ = socket.recv_fds(ours, 64, 1)
    if not fds:
        os.waitpid(child, 0)
        code = int(message or errno.EPERM)
        raise OSError(code, os.strerror(code))
    before = {
        number: signal.signal(number, lambda signum, _frame: os.kill(child, signum)) for number in _FORWARDED
    }
    try:
        _Answering(changed, fds[0]).serve(child)
        _, status = os.waitpid(child, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(fds[0])
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _become(changed: Changed, job: Callable[[], int], to: socket.socket, parent: int) -> None:
    """The child's whole life: it never returns."""
    status = 1
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)
        try:
            listener = _install(changed)
        except OSError as error:
            to.sendall(str(error.errno).encode())
            os._exit(status)
        socket.send_fds(to, [b"0"], [listener])
        os.close(listener)
        to.close()
        status = job()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    finally:
        standard_streams.flush()
        os._exit(status)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("rows", ctypes.c_void_p))


def _install(changed: Changed) -> int:
    """Install the filter for this process and those that it starts; return the descriptor that listens."""
    machine = _MACHINES[os.uname().machine]
    code = _filter(machine, changed)
    rows = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(rows))
    fd: int = _libc.syscall(machine.seccomp, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
    if fd < 0:
        _raise()
    return fd


def _raise() -> None:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code))


def _filter(machine: _Machine, changed: Changed) -> bytes:
    """Return the filter as the kernel takes it: calls of the native ABI that are answered, and no others."""
    names = ["getdents64"] if changed.reverse else []
    names += ["uname"] if changed.kernel else []
    names += ["set_tid_address", "gettimeofday", "time"] if changed.seconds else []
    rows = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, machine.audit), (_RETURN, 0, 0, _ALLOW)]
    rows.append((_LOAD, 0, 0, _NUMBER))
    for name in names:
        if name in machine.numbers:
            rows += [(_EQUAL, 0, 1, machine.numbers[name]), (_RETURN, 0, 0, _NOTIFY)]
    if changed.seconds:
        rows += [(_EQUAL, 1, 0, machine.numbers["clock_gettime"]), (_RETURN, 0, 0, _ALLOW)]
        rows.append((_LOAD, 0, 0, _FIRST_ARGUMENT))
        for clock in _WALL_CLOCKS:
            rows += [(_EQUAL, 0, 1, clock), (_RETURN, 0, 0, _NOTIFY)]
    rows.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *row) for row in rows)


# -- answers -----------------------------------------------------------------------------------------------


class _Answering:
    """Reads notifications and answers them, one after another."""

    def __init__(self, changed: Changed, listener: int) -> None:
        self._changed = changed
        self._listener = listener
        self._machine = _MACHINES[os.uname().machine]
        self._names = {number: name for name, number in self._machine.numbers.items()}
        self._root = os.stat("/")

    def serve(self, child: int) -> None:
        """Answer until the child has ended."""
        ended = os.pidfd_open(child)
        try:
            poll = select.poll()
            poll.register(self._listener, select.POLLIN)
            poll.register(ended, select.POLLIN)
            while True:
                for fd, event in poll.poll():
                    if fd == ended:
                        return
                    if event & select.POLLIN:
                        self._one()
                    elif event & select.POLLHUP:  # nobody has the filter any more
                        poll.unregister(self._listener)
        finally:
            os.close(ended)

    def _one(self) -> None:
        data = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, data)
        except OSError:  # it was killed meanwhile
            return
        ident, task, _, number, _, _, *arguments = _NOTIFICATION.unpack(data)
        value: int | None = None
        with contextlib.suppress(OSError, ValueError, struct.error):
            value = self._answer(self._names[number], task, ident, arguments)
        if value is None:
            answer = _RESPONSE.pack(ident, 0, 0, _CONTINUE)
        else:
            answer = _RESPONSE.pack(ident, max(value, 0), min(value, 0), 0)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._listener, _ANSWER, answer)

    def _answer(self, name: str, task: int, ident: int, arguments: list[int]) -> int | None:
        """Return what a call gives, -errno for a failure; None where the kernel is to do it as ever."""
        if name == "getdents64":
            return self._list(task, ident, arguments)
        if not self._in_image(task):
            return None
        if name == "uname":
            return self._name(task, ident, arguments[0])
        if self._has_network(task):  # certificates and signatures have days
            return None
        if name == "set_tid_address":
            self._patch(task, ident)
            return None
        return self._time(name, task, ident, arguments)

    def _in_image(self, task: int) -> bool:
        status = os.stat(f"/proc/{task}/root/.")
        return (status.st_dev, status.st_ino) != (self._root.st_dev, self._root.st_ino)

    @staticmethod
    def _has_network(task: int) -> bool:
        with open(f"/proc/{task}/environ", "rb") as stream:
            return b"http_proxy=" in stream.read(1 << 20)

    def _write(self, task: int, ident: int, at: int, data: bytes) -> None:
        """Write to the memory of a process whose call is being answered."""
        with open(f"/proc/{task}/mem", "r+b", buffering=0) as memory:
            # The number may be another process's by now; of the file that is open it cannot become one.
            fcntl.ioctl(self._listener, _STILL, struct.pack("=Q", ident))
            memory.seek(at)
            memory.write(data)

    def _list(self, task: int, ident: int, arguments: list[int]) -> int:
        """List a directory as the call would, in the other order; each piece of a large one by itself."""
        fd = _descriptor_of(task, arguments[0])
        try:
            size = min(arguments[2], _BUFFER)
            buffer = ctypes.create_string_buffer(size)
            count: int = _libc.syscall(self._machine.numbers["getdents64"], fd, buffer, size)
            if count < 0:
                return -ctypes.get_errno()
        finally:
            os.close(fd)
        rows = list(_rows(buffer.raw[:count]))
        # Where the next one is stays with the place: what was listed can be gone on from.
        places = [row[8:16] for row in rows]
        turned = [row[:8] + place + row[16:] for row, place in zip(reversed(rows), places, strict=True)]
        self._write(task, ident, arguments[1], b"".join(turned))
        return count

    def _name(self, task: int, ident: int, at: int) -> int:
        system, _, _, version, machine = os.uname()
        fields = [system, self._changed.host, self._changed.kernel, version, machine, "(none)"]
        self._write(task, ident, at, b"".join(field.encode()[:64].ljust(65, b"\0") for field in fields))
        return 0

    def _patch(self, task: int, ident: int) -> None:
        """Let a process that begins ask the kernel for the time."""
        begin = vdso.place(task)
        for name, offset in vdso.functions():
            number = self._machine.numbers.get(vdso.CALLS[name])
            if begin and number is not None:
                self._write(task, ident, begin + offset, self._machine.call(number))

    def _time(self, name: str, task: int, ident: int, arguments: list[int]) -> int:
        nanoseconds = time.time_ns() + self._changed.seconds * 1_000_000_000
        seconds, rest = divmod(nanoseconds, 1_000_000_000)
        if name == "time":
            if arguments[0]:
                self._write(task, ident, arguments[0], struct.pack("=q", seconds))
            return seconds
        at = arguments[1] if name == "clock_gettime" else arguments[0]
        if at:
            part = rest if name == "clock_gettime" else rest // 1000
            self._write(task, ident, at, struct.pack("=qq", seconds, part))
        if name == "gettimeofday" and arguments[1]:
            self._write(task, ident, arguments[1], struct.pack("=ii", 0, 0))
        return 0


def _descriptor_of(task: int, number: int) -> int:
    """Return a descriptor of ours of what a process has open under a number."""
    with open(f"/proc/{task}/status") as stream:
        process = next(int(line.split()[1]) for line in stream if line.startswith("Tgid:"))
    handle = os.pidfd_open(process)
    try:
        fd: int = _libc.syscall(_PIDFD_GETFD, handle, ctypes.c_int(number & 0xFFFFFFFF), 0)
    finally:
        os.close(handle)
    if fd < 0:
        _raise()
    return fd


def _rows(data: bytes) -> list[bytes]:
    """Return the entries that getdents64 gave."""
    found, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("=H", data, at + 16)
        found.append(data[at : at + length])
        at += length
    return found
