"""What differs between the systems a build runs on. Linux needs none of this; illumos has no namespaces.

Loopback mounts, the zone's name and delegated dataset, the platform's stamp, and the flags of tools
that are spelled otherwise there. Nothing else in the package asks which system it is on.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildstep import process
from buildstep.errors import CommandFailed, DatasetError, SandboxError
from buildstep.fsutil import Root

_STAMP = re.compile(r"20[12][0-9](0[1-9]|1[0-2])([0-2][0-9]|3[01])T[0-2][0-9][0-5][0-9][0-5][0-9]Z")

SDC_VERSION = "7.0"
"""The key under which `min_platform` holds a stamp, where sysinfo tells no other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """name: as sys.platform has it. namespaces: a build can have mounts that die with it.

    loopbacks: directories of the agent that a zone's image lacks and its programs need. rsync, tar:
    the program and the flags that keep owners, links, ACLs and attributes.
    """

    name: str
    namespaces: bool
    loopbacks: tuple[str, ...]
    rsync: tuple[str, ...]
    tar: tuple[str, ...]


LINUX = Platform(
    name="linux",
    namespaces=True,
    loopbacks=(),
    rsync=("rsync", "-aHAX", "--numeric-ids"),
    tar=("tar", "--numeric-owner", "--xattrs", "--acls"),
)

ILLUMOS = Platform(
    name="sunos5",
    namespaces=False,
    # In the order of the original; /proc for programs that look at themselves, /dev for their terminals.
    loopbacks=("/dev", "/lib", "/proc", "/sbin", "/usr"),
    # Its rsync is built without -X; the tar that knows ACLs and attributes is the system's own.
    rsync=("rsync", "-aHA", "--numeric-ids"),
    tar=("/usr/bin/tar", "p@E"),
)


def here() -> Platform:
    """The platform that we run on; anything that is not illumos is taken for Linux."""
    return ILLUMOS if sys.platform == "sunos5" else LINUX


# -- mounts on illumos --------------------------------------------------------------------------------


def lofs_argv(source: str, target: Path) -> list[str]:
    """The command that shows a directory read-only at a second place."""
    return ["mount", "-F", "lofs", "-r", source, os.fspath(target)]


@contextlib.contextmanager
def loopback_mounts(
    root: Root, directories: Sequence[str], *, note: Callable[[Path], None] = lambda _: None
) -> Iterator[None]:
    """The agent's own directories, read-only, in a zone's root, for the length of a block.

    Made one by one, and undone in reverse as far as they were made. note: told of each target before
    it is mounted, to write it down: without namespaces nothing else would know of it after a crash.
    A target that a link leads out of the root is refused. Directories made for it are removed again.
    """
    with contextlib.ExitStack() as stack:
        for source in directories:
            if made := root.make_dirs(source):
                stack.callback(root.remove, made[0])
            target = root.host_path(source)
            if target is None:
                raise SandboxError(f"{source} in the image cannot be mounted on: it leads nowhere")
            note(target)
            _run(lofs_argv(source, target), f"mounting {source}")
            stack.callback(unmount, target)
        yield


def unmount(target: Path) -> None:
    """Plainly, then by force: a mount that stays keeps the dataset busy."""
    try:
        process.query(["umount", os.fspath(target)])
    except CommandFailed:
        _run(["umount", "-f", os.fspath(target)], f"unmounting {target}")


def mount_dataset(name: str, target: Path, *, read_only: bool = False) -> None:
    """Mount a dataset whose mountpoint is legacy."""
    flags = ["-r"] if read_only else []
    _run(["mount", "-F", "zfs", *flags, name, os.fspath(target)], f"mounting {name}")


def _run(argv: Sequence[str], what: str) -> None:
    try:
        process.query(argv, what=what)
    except CommandFailed as error:
        raise SandboxError(error.message, detail=error.detail) from error


# -- what this host is --------------------------------------------------------------------------------


def zone_name() -> str:
    """The zone that we are in. Raises DatasetError in the global one, where nothing is delegated."""
    name = process.query(["zonename"]).stdout.strip()
    if name == "global":
        raise DatasetError(
            "this is the global zone, which has no delegated dataset",
            hint="build in a zone that was given one, or name a dataset with --pool zfs:DATASET",
        )
    return name


def delegated_dataset(zone: str) -> str:
    """Where a zone's administrator gives it a dataset."""
    return f"zones/{zone}/data"


def platform_stamp(version: str) -> str | None:
    """The stamp in what `uname -v` tells (joyent_20210826T002459Z); None on any other system."""
    stamp = version.partition("_")[2]
    return stamp if _STAMP.fullmatch(stamp) else None


def min_platform(uname: os.uname_result, sdc_version: str = SDC_VERSION) -> Mapping[str, str]:
    """What an image needs that was built with this host's own libraries; nothing elsewhere."""
    stamp = platform_stamp(uname.version) if uname.sysname == "SunOS" else None
    return {sdc_version: stamp} if stamp else {}
