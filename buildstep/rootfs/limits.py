"""What a command in an image may take: processes, memory, output, open files, a file; and how that is kept.

A control group keeps processes and memory together, where one can be made. Else the build counts the
processes itself, which are those of its own PID namespace, and rlimits keep each process's memory.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shlex
from collections.abc import Iterator

from buildstep.spec.fields import Limits
from buildstep.system import cgroup
from buildstep.system.process import Reached
from buildstep.system.text import size_text

DEFAULT_PIDS = 8192
DEFAULT_OUTPUT = 100 << 20
DEFAULT_OPEN_FILES = 16384
DEFAULT_FILE_SIZE = 16 << 30
"""A script makes a file of any size in no time, as a hole; to read and hash it takes a second a gigabyte."""

_SPARE = 64
"""How many more processes than its limit a command is let have where the build counts them itself: it has to
see the one too many. Processes of the build count as well."""

_REFUSED = "{ echo 'limits: the control group cannot be entered' >&2; exit 1; }"


def effective(limits: Limits) -> Limits:
    """Return the limits with the defaults of this machine in place of None."""
    default = Limits(
        pids=DEFAULT_PIDS,
        memory=cgroup.memory_here() * 3 // 4,
        output=DEFAULT_OUTPUT,
        open_files=DEFAULT_OPEN_FILES,
        file_size=DEFAULT_FILE_SIZE,
    )
    return limits.or_else(default)


class Confinement:
    """The limits of the commands in one root, in force. What `confine` yields."""

    def __init__(self, limits: Limits, group: cgroup.Group) -> None:
        self._limits = limits
        self._group = group
        self._counted = bool(limits.pids) and "pids" not in group.controllers and os.getpid() == 1
        self._before = group.met()

    @property
    def output(self) -> int | None:
        """Bytes that a command may print; None: no limit."""
        return self._limits.output or None

    def begin(self) -> None:
        """Another command is about to run: what an earlier one met is not its fault."""
        self._before = self._group.met()

    def reached(self) -> Reached | None:
        """Return the limit that the command has met since `begin`, or None."""
        now = self._group.met()
        if now.get("pids", 0) > self._before.get("pids", 0) or (
            self._counted and _processes() > (self._limits.pids or 0)
        ):
            return Reached("pids", f"reached the limit of {self._limits.pids} processes")
        if now.get("memory", 0) > self._before.get("memory", 0):
            return Reached(
                "memory", f"used up the {size_text(self._limits.memory or 0)} of memory it may use"
            )
        return None

    def suspected(self, said: str) -> str:
        """Return which limit a command seems to have failed at, of those that no one counts; empty for none.

        said: the last that the command printed.
        """
        by_itself = {
            "memory": (
                "Cannot allocate memory",
                "Out of memory",
                "out of memory",
                "MemoryError",
                "bad_alloc",
            ),
            "pids": ("Resource temporarily unavailable", "Cannot fork", "can't fork"),
        }
        for name, words in by_itself.items():
            alone = name not in self._group.controllers and getattr(self._limits, name)
            if alone and any(word in said for word in words):
                return name
        alone = {"open_files": "Too many open files", "file_size": "File too large"}
        return next(
            (name for name, words in alone.items() if getattr(self._limits, name) and words in said), ""
        )

    def prefix(self) -> tuple[str, ...]:
        """Return the words before a command that make it enter: a shell, which becomes the command."""
        limits, lines = self._limits, ["ulimit -c 0"]
        if limits.open_files:
            lines.append(f"ulimit -n {_most(limits.open_files, resource.RLIMIT_NOFILE)}")
        if limits.file_size:
            # Counted in blocks of 512 bytes (POSIX). Without the signal, which kills a program without a
            # word, writing more is an error that the program tells.
            lines.append(f"trap '' XFSZ; ulimit -f {_most(limits.file_size, resource.RLIMIT_FSIZE, 512)}")
        if limits.pids and "pids" not in self._group.controllers:
            # It is -u in bash and -p in dash and busybox. The kernel does not ask it of the machine's root.
            most = _most(limits.pids + _SPARE, resource.RLIMIT_NPROC)
            lines.append(f"ulimit -u {most} 2>/dev/null || ulimit -p {most} 2>/dev/null || :")
        if limits.memory and "memory" not in self._group.controllers:
            # Not the address space (-v): many programs reserve far more of it than they ever use.
            lines.append(f"ulimit -d {_most(limits.memory, resource.RLIMIT_DATA, 1024)}")
        lines += [
            f"echo 0 2>/dev/null >{shlex.quote(os.fspath(path))} || {_REFUSED}"
            for path in self._group.entrances
        ]
        return "/bin/sh", "-c", "\n".join([*lines, 'exec "$@"']), "sh"


def _most(wanted: int, limit: int, unit: int = 1) -> int:
    """Return what a limit can be set to, in its unit: no more than the hard limit that the build itself has.

    To set more is refused, with a line in every command's output, or undoes what the CI host has set.
    """
    _, hard = resource.getrlimit(limit)
    most = max(wanted, unit)
    return (most if hard == resource.RLIM_INFINITY else min(hard, most)) // unit


@contextlib.contextmanager
def confine(limits: Limits) -> Iterator[Confinement]:
    """Set up the limits for what runs in the block. Whatever a command left in them is killed at its end."""
    limits = effective(limits)
    wanted = {"pids": limits.pids, "memory": limits.memory}
    with cgroup.group({name: most for name, most in wanted.items() if most}) as group:
        yield Confinement(limits, group)


_TIMEOUTS = {"total": "command", "idle": "idle"}


def setting(name: str) -> str:
    """Return the setting of a limit, by its name in `process.Limits` or in `fields.Limits`."""
    return f"timeouts.{_TIMEOUTS[name]}" if name in _TIMEOUTS else f"limits.{name}"


def remedy(name: str) -> str:
    """Return what to do about a limit that was reached."""
    if name in _TIMEOUTS:
        return f'more time: "timeouts": {{"{_TIMEOUTS[name]}": SECONDS}} in the build part of m.json'
    return (
        f'if the packages need more, raise the limit: "limits": {{"{name}": N}} in the build part of m.json,'
        f" or {name} = N under [limits] in buildstep.toml; 0 is no limit"
    )


def in_force(limits: Limits) -> list[tuple[str, str]]:
    """Return each limit on this machine and how it is kept, in words, for the doctor."""
    limits = effective(limits)
    places = cgroup.places()
    files = _most(limits.open_files or 0, resource.RLIMIT_NOFILE)
    size = size_text(_most(limits.file_size or 0, resource.RLIMIT_FSIZE))
    how = {name: f"by a control group, version {place.version}" for name, place in places.items()}
    pids = how.get("pids", "counted by the build")
    memory = how.get("memory", "for each process by itself (setrlimit): no control group can be made here")
    return [
        ("pids", f"{limits.pids} processes, {pids}" if limits.pids else "no limit"),
        ("memory", f"{size_text(limits.memory)}, {memory}" if limits.memory else "no limit"),
        ("output", f"{size_text(limits.output)} a command" if limits.output else "no limit"),
        ("open_files", f"{files} a process" if limits.open_files else "no limit"),
        ("file_size", f"{size} a file" if limits.file_size else "no limit"),
        ("devices", how.get("devices", "no control group; the image's mounts alone keep them closed")),
    ]


def _processes() -> int:
    """Return how many processes there are in our PID namespace, whose /proc a build has."""
    return sum(name.isdigit() for name in os.listdir("/proc"))
