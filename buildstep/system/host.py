"""What differs between the systems a build runs on: Linux, and illumos (SmartOS zones).

The rest of the package asks `HERE` and never which system it is on. illumos has no namespaces, so mounts are
written to the journal before they are made (`mounts.noted`); it mounts by commands, has another table of
mounts, another `zfs` and another `rsync`, and lacks some calls of Python's that Linux has.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from buildstep.errors import CommandFailed, DatasetError, SandboxError
from buildstep.system import process

SDC_VERSION = "7.0"
"""The key under which `min_platform` holds a stamp, where sysinfo tells no other."""

# Not compiled here: every build loads this file, and Linux never asks.
_STAMP = r"20[12][0-9](0[1-9]|1[0-2])([0-2][0-9]|3[01])T[0-2][0-9][0-5][0-9][0-5][0-9]Z"


class Platform:
    """Linux, and what another system has to change. No dataclass: every build loads it.

    namespaces: a build has mounts of its own that go with it; else each is noted before it is made.
    mount_commands: mounts are made by commands, not by mount(2). openat2: the kernel resolves paths inside
    a root; else they are walked. mounted: directories of an image that something is mounted on while its
    programs run; where there are no namespaces, the CI host's directories of the same names.
    tools: programs that a build with packages needs. rsync: the flags that keep links, times, holes and,
    where it can, ACLs and attributes. zfs_library: whether libzfs_core has a binding; else the command does
    all. zfs_no_mount, zfs_props: flag and properties of datasets that are made here.
    """

    name = "linux"
    namespaces = True
    mount_commands = False
    openat2 = True
    mounted: tuple[str, ...] = ("/dev", "/proc", "/tmp", "/run")
    tools: tuple[str, ...] = ("bwrap", "nsenter")
    rsync: tuple[str, ...] = (
        "-rlptD", "--hard-links", "--sparse", "--numeric-ids", "--xattrs", "--acls",
    )  # fmt: skip
    zfs_library = True
    zfs_no_mount: tuple[str, ...] = ("-u",)
    # Properties come from the parent and not from the origin: without this, ACLs would be lost.
    zfs_props: Mapping[str, str | int] = {"acltype": 1}

    def copy(self, source: Path, target: Path) -> list[str]:
        """Return the command that copies a directory to a new one."""
        return ["cp", "-a", "--reflink=auto", "--sparse=auto", "--", os.fspath(source), os.fspath(target)]

    def pool(self) -> str | None:
        """Return the URI of the pool that an administrator gave this host; None where that is not the way."""
        return None


class Illumos(Platform):
    """A SmartOS zone, as the CI hosts of Triton are."""

    name = "sunos5"
    namespaces = False
    mount_commands = True
    openat2 = False
    # In the order of the original; /proc for programs that look at themselves, /dev for their terminals.
    mounted = ("/dev", "/lib", "/proc", "/sbin", "/usr")
    tools = ("mount", "umount", "chroot", "ctrun", "zfs", "zonename")
    # It has no extended attributes of Linux's kind, and rsync knows nothing of the ACLs that ZFS has there.
    rsync = ("-rlptD", "--hard-links", "--sparse", "--numeric-ids")
    zfs_library = False
    # `zfs create` and `zfs rename` have no -u; what we make has a legacy mountpoint and is not mounted.
    zfs_no_mount = ()
    zfs_props: Mapping[str, str | int] = {}

    def copy(self, source: Path, target: Path) -> list[str]:
        return ["rsync", "-a", *self.rsync[1:], "--", f"{os.fspath(source)}/", f"{os.fspath(target)}/"]

    def pool(self) -> str | None:
        """The dataset that the zone's administrator gave it. Raises DatasetError where there is none."""
        zone = process.query(["zonename"]).stdout.strip()
        if zone == "global":
            raise DatasetError(
                "this is the global zone, which has no delegated dataset",
                hint="build in a zone that was given one, or name a dataset with --pool zfs:DATASET",
            )
        name = f"zones/{zone}/data"
        if process.query(["zfs", "list", "-H", "-o", "name", name], ok=(0, 1)).status:
            raise DatasetError(
                f"this zone has no delegated dataset {name}",
                hint="let an administrator give it one, or choose another pool with --pool",
            )
        return f"zfs:{name}"


# -- what is done by commands on illumos ----------------------------------------------------------------


def mount(source: str, target: str, fstype: str | None, *, read_only: bool, lasting: bool = False) -> None:
    """Mount by command. Raises SandboxError with the command's output.

    fstype: None for a directory shown at a second place. lasting: a dataset that has its own mountpoint,
    which `mount` leaves to `zfs`.
    """
    flags = ["-r"] if read_only else []
    argv = ["zfs", "mount", source] if lasting else ["mount", "-F", fstype or "lofs", *flags, source, target]
    try:
        process.query(argv, what=f"mounting {source} on {target}")
    except CommandFailed as error:
        raise SandboxError(error.message, detail=error.detail) from error


def unmount(target: str) -> None:
    """Unmount by command: plainly, then by force, as a mount that stays keeps the dataset busy.

    Raises SandboxError with the command's output.
    """
    try:
        process.query(["umount", target])
    except CommandFailed:
        try:
            process.query(["umount", "-f", target], what=f"unmounting {target}")
        except CommandFailed as error:
            raise SandboxError(error.message, detail=error.detail) from error


def enter_argv(root: str, argv: Sequence[str]) -> list[str]:
    """Return the command line for a command in an image's root, on illumos.

    It runs in a process contract of its own, which is what there is in place of a PID namespace: when the
    command ends, or `ctrun` is killed, the kernel kills whatever it left running.
    """
    # By its path: the command's own PATH is the image's.
    return ["ctrun", "-l", "child", "-o", "noorphan", process.which("chroot"), root, *argv]


LINUX, ILLUMOS = Platform(), Illumos()

HERE: Platform = ILLUMOS if sys.platform == "sunos5" else LINUX
"""The platform that we run on; anything that is not illumos is taken for Linux."""


# -- what this host is ----------------------------------------------------------------------------------


def platform_stamp(version: str) -> str | None:
    """Return the stamp in the output of `uname -v` (joyent_20210826T002459Z); None on any other system."""
    stamp = version.partition("_")[2]
    return stamp if re.fullmatch(_STAMP, stamp) else None


def min_platform(uname: os.uname_result, sdc_version: str = SDC_VERSION) -> Mapping[str, str]:
    """Return the `min_platform` of an image built with this host's own libraries; empty on other systems."""
    stamp = platform_stamp(uname.version) if uname.sysname == "SunOS" else None
    return {sdc_version: stamp} if stamp else {}


def host_platform() -> tuple[str, str] | None:
    """Return this host's SDC version and platform stamp, as `sysinfo` tells them; None if it is no such host.

    A zone may have no `sysinfo`: there `uname` tells the stamp.
    """
    if process.find("sysinfo") is None:
        return next(iter(min_platform(os.uname()).items()), None)
    try:
        facts = json.loads(process.query(["sysinfo"]).stdout)
    except (CommandFailed, ValueError):
        return None
    if not isinstance(facts, dict) or not isinstance(facts.get("Live Image"), str):
        return None
    return str(facts.get("SDC Version") or SDC_VERSION), facts["Live Image"]


def boot_id() -> str:
    """Return what tells one start of the machine from another; empty where nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


# -- what Python has on Linux only ----------------------------------------------------------------------


def complete(module: Any = os) -> None:
    """Give Python's `os` what it has on Linux only: no file has extended attributes and none can be set, the
    kernel copies nothing by itself, and a file without a name is one in the temporary folder."""

    def listxattr(*_: object, **_more: object) -> list[str]:
        return []

    def refuse(*_: object, **_more: object) -> NoReturn:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    def missing(*_: object, **_more: object) -> NoReturn:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def memfd_create(name: str, _flags: int = 0) -> int:
        import tempfile

        fd, path = tempfile.mkstemp(prefix=f"buildstep-{name}-")
        os.unlink(path)
        return fd

    calls = {
        "listxattr": listxattr,
        "getxattr": refuse,
        "setxattr": refuse,
        "removexattr": refuse,
        "copy_file_range": missing,
        "memfd_create": memfd_create,
    }
    for name, call in calls.items():
        if not hasattr(module, name):
            setattr(module, name, call)


if HERE is ILLUMOS:
    complete()
