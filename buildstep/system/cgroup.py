"""A control group for what runs in an image: how many processes, how much memory, which devices.

The kernel has two interfaces (cgroups(7)). Version 1 mounts each controller by itself, and a group may be
made below our own. Version 2 has one tree, in which only a group without processes can have controlled groups
below it; so the new one is made below the nearest group above ours that hands the controllers on. Where
neither can be had, rlimits are what is left.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from buildstep.system import device_filter, host, mount_table
from buildstep.system.locks import lock_directory

NAME: Final = re.compile("buildstep-[0-9a-f]{16}")
"""What our groups are called: nothing else is ever removed."""

_SELF = Path("/proc/self/cgroup")
_HANDED_ON = "cgroup.subtree_control"
_MEMINFO = Path("/proc/meminfo")
_OLD = 600.0
"""Seconds after which a group without a living owner is removed by whoever comes by: its journal is gone."""

_PATIENCE = 2.0
"""Seconds that the kernel may take to let go of a group whose processes were killed."""


class Files(NamedTuple):
    """What the files of a controller are called. limits: each with what is written, {} for the limit itself;
    the first is a must. events: the file that counts how often the limit was met, and the word before the
    count."""

    limits: tuple[tuple[str, str], ...]
    events: tuple[str, str]


FILES: Final[Mapping[tuple[int, str], Files]] = {
    (1, "pids"): Files((("pids.max", "{}"),), ("pids.events", "max")),
    (2, "pids"): Files((("pids.max", "{}"),), ("pids.events", "max")),
    # Memory and swap together are no more than the memory alone: no swap.
    (1, "memory"): Files(
        (("memory.limit_in_bytes", "{}"), ("memory.memsw.limit_in_bytes", "{}")),
        ("memory.oom_control", "oom_kill"),
    ),
    # All processes of the group are killed: one alone missing makes a half-done installation.
    (2, "memory"): Files(
        (("memory.max", "{}"), ("memory.swap.max", "0"), ("memory.oom.group", "1")),
        ("memory.events", "oom_kill"),
    ),
}

DEVICES: Final = (
    (1, 3), (1, 5), (1, 7), (1, 8), (1, 9),  # null zero full random urandom
    (5, 0), (5, 2), (136, None),  # tty ptmx, and all of pts
)  # fmt: skip
"""The character devices that may be opened, by major and minor. Any may be made: packages hold them."""


class Place(NamedTuple):
    """Where a group for a controller can be made."""

    version: int
    folder: Path


_notes: list[Callable[[Path], None]] = []


@contextlib.contextmanager
def noted(note: Callable[[Path], None]) -> Iterator[None]:
    """For the length of a block, pass each group's directory to `note` before it is made."""
    _notes.append(note)
    try:
        yield
    finally:
        _notes.pop()


# -- where ------------------------------------------------------------------------------------------------


def places() -> dict[str, Place]:
    """Return where a group can be made for each controller (pids, memory, devices); empty where none can."""
    if not host.HERE.namespaces:
        return {}
    ours = _ours()
    # A process is in one group of version 2: all of its controllers have to be handed on by the same one.
    top = next((_handing_on(place.folder) for place in ours.values() if place.version == 2), None)
    found = {}
    for name, place in ours.items():
        if place.version == 2 and top is not None and name in _words(top, _HANDED_ON):
            found[name] = Place(2, top)
        elif place.version == 1 and os.access(place.folder, os.W_OK | os.X_OK):
            found[name] = place
    if top is not None and "devices" not in found and device_filter.possible():
        found["devices"] = Place(2, top)
    return found


def _ours(wanted: Sequence[str] = ("pids", "memory", "devices")) -> dict[str, Place]:
    """Return for each of these controllers the directory of the group that we are in."""
    try:
        table = mount_table.mounts()
        rows = [row.split(":", 2) for row in _SELF.read_text().splitlines()]
    except OSError:
        return {}
    found: dict[str, Place] = {}
    for _, names, path in rows:
        for mount in table:
            controllers = names.split(",") if names else []
            if mount.kind != ("cgroup" if names else "cgroup2"):
                continue
            if not set(controllers) <= set(mount.options.split(",")):
                continue
            folder = _below(mount, path)
            if folder is None:
                continue
            version = 1 if names else 2
            for name in controllers or _words(folder, "cgroup.controllers"):
                if name in wanted:
                    found.setdefault(name, Place(version, folder))
    return found


def _below(mount: mount_table.Mount, path: str) -> Path | None:
    """Return where a group is seen in a mount; None if the mount does not show it."""
    inside = os.path.relpath(path, mount.root)
    if inside.startswith("..") or "/../" in path:
        return None
    return Path(os.path.normpath(os.path.join(mount.point, inside)))


def _handing_on(folder: Path) -> Path | None:
    """Return the nearest group of version 2, from ours upwards, below which we can make a controlled one."""
    for top in (folder, *folder.parents):
        if not (top / "cgroup.procs").exists():
            return None
        if {"pids", "memory"} & set(_words(top, _HANDED_ON)) and os.access(top / "cgroup.procs", os.W_OK):
            return top
    return None


def _words(folder: Path, name: str) -> list[str]:
    with contextlib.suppress(OSError):
        return (folder / name).read_text().split()
    return []


def memory_here() -> int:
    """Return the bytes of memory that this process may use: the machine's, or what its groups leave it."""
    found = re.search(r"MemTotal:\s*(\d+) kB", _MEMINFO.read_text())
    least = int(found[1]) * 1024 if found else 0
    place = _ours().get("memory")
    if place is not None:
        name = FILES[place.version, "memory"].limits[0][0]
        for group in (place.folder, *place.folder.parents):
            if not (group / "cgroup.procs").exists():
                break
            with contextlib.suppress(OSError, ValueError):  # no such file in the topmost group; "max"
                least = min(least, int((group / name).read_text()))
    return least


def processors_here() -> int:
    """Return how many processors' time the groups of this process leave it, rounded up; 0: all there is."""
    ours = _ours(("cpu", "memory", "pids"))
    # A group of version 2 that has no limit of its own need not have the controller, either.
    place = ours.get("cpu") or next((one for one in ours.values() if one.version == 2), None)
    least = 0.0
    if place is not None:
        for group in (place.folder, *place.folder.parents):
            if not (group / "cgroup.procs").exists():
                break
            with contextlib.suppress(OSError, ValueError):  # no such file in the topmost group; "max"
                if place.version == 2:
                    quota, period = map(int, (group / "cpu.max").read_text().split())
                else:
                    quota = int((group / "cpu.cfs_quota_us").read_text())
                    period = int((group / "cpu.cfs_period_us").read_text())
                if quota > 0 and period > 0:
                    least = min(least or quota / period, quota / period)
    return math.ceil(least)


# -- a group ----------------------------------------------------------------------------------------------


class Group:
    """A group that was made: one directory, or with version 1 one for each controller."""

    def __init__(self, folders: Mapping[str, Place]) -> None:
        self._folders = folders

    @property
    def controllers(self) -> frozenset[str]:
        """What it limits."""
        return frozenset(self._folders)

    @property
    def entrances(self) -> list[Path]:
        """The files to which a process writes 0 to enter the group."""
        return sorted({place.folder / "cgroup.procs" for place in self._folders.values()})

    def met(self) -> dict[str, int]:
        """Return how often each limit was met so far."""
        counts = {}
        for name, place in self._folders.items():
            if files := FILES.get((place.version, name)):
                file, word = files.events
                words = _words(place.folder, file)
                if word in words:
                    counts[name] = int(words[words.index(word) + 1])
        return counts


@contextlib.contextmanager
def group(limits: Mapping[str, int], *, devices: bool = True) -> Iterator[Group]:
    """Make a group for the length of a block; at its end whatever is in it is killed.

    limits: of pids and memory (bytes); a controller that is not named is not used, and one that cannot be had
    is not in the group's `controllers`. devices: whether only the usual devices can be opened, where the
    kernel has that.
    """
    name = f"buildstep-{secrets.token_hex(8)}"
    made: dict[str, Place] = {}
    folders: dict[Path, int | None] = {}
    try:
        for controller, place in places().items():
            if controller not in limits and not (devices and controller == "devices"):
                continue
            folder = place.folder / name
            try:
                if folder not in folders:
                    for note in _notes[-1:]:
                        note(folder)
                    folders[folder] = None
                    _sweep(place.folder)
                    folder.mkdir()
                    folders[folder] = lock_directory(folder)
                _set(Place(place.version, folder), controller, limits)
            except OSError:
                continue  # a container shows files that it does not let us write
            made[controller] = Place(place.version, folder)
        yield Group(made)
    finally:
        for folder, locked in folders.items():
            with contextlib.suppress(OSError):  # the journal has it: `heal` tries again
                remove(folder)
            if locked is not None:
                os.close(locked)


def _sweep(top: Path) -> None:
    """Remove old groups whose builds are dead and took their pool along. The living have theirs locked."""
    for folder in top.glob("buildstep-*"):
        with contextlib.suppress(OSError):
            old = time.time() - folder.stat().st_mtime > _OLD
            locked = lock_directory(folder) if old and NAME.fullmatch(folder.name) else None
            if locked is not None:
                try:
                    folder.rmdir()  # one with processes stays
                finally:
                    os.close(locked)


def _set(place: Place, controller: str, limits: Mapping[str, int]) -> None:
    """Write the limit of one controller. Raises OSError where the kernel refuses the one that counts."""
    if controller == "devices":
        if place.version == 2:
            device_filter.attach(place.folder, DEVICES)
            return
        (place.folder / "devices.deny").write_text("a")
        opened = (f"c {major}:{'*' if minor is None else minor} rwm" for major, minor in DEVICES)
        for rule in ("c *:* m", "b *:* m", *opened):
            with contextlib.suppress(OSError):  # what our own group may not open, it cannot grant
                (place.folder / "devices.allow").write_text(rule)
        return
    for number, (file, text) in enumerate(FILES[place.version, controller].limits):
        try:
            (place.folder / file).write_text(text.format(limits[controller]))
        except OSError:
            if not number:
                raise


def exists(folder: Path) -> bool:
    """Return whether a directory is a group of our making."""
    ours = NAME.fullmatch(folder.name) is not None and (folder / "cgroup.procs").exists()
    return ours and mount_table.kind_at(folder).startswith("cgroup")


def remove(folder: Path) -> bool:
    """Kill what is in a group of ours and remove it; return whether it was there. Raises OSError.

    A directory that is no group, or not of our making, is left alone.
    """
    procs = folder / "cgroup.procs"
    if not exists(folder):
        return False
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            if time.monotonic() > end:
                raise
        else:
            return True
        _kill(_pids(procs))
        time.sleep(0.005)


def _pids(procs: Path) -> Sequence[int]:
    with contextlib.suppress(OSError):
        return [int(row) for row in procs.read_text().split()]
    return ()


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        if pid > 0:  # 0: one that our PID namespace does not show
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
