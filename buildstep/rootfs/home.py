"""The home directory of a new account, with what /etc/skel has for it, as useradd(8) makes it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from buildstep.errors import UsageError
from buildstep.system.root import Root

_SKELETON = "/etc/skel"


class Home(NamedTuple):
    """A home to make: where, and whose."""

    path: str
    uid: int
    gid: int


def make_home(
    home: Home, root: Root, limits: Mapping[str, str], *, owners: bool
) -> dict[str, tuple[int, int]]:
    """Make a home directory, and return the owners of all that is new, by path without links.

    One that is there stays as it is, like with useradd. limits: of /etc/login.defs. owners: whether they can
    be set here. Raises OSError, and UsageError where the way to it is no directory.
    """
    if root.lstat(home.path) is not None or home.path == "/":
        return {}
    above = os.path.dirname(home.path)
    _check_way(root, above)
    found = {_place(root, path): (0, 0) for path in (root.make_dirs(above) if above != "/" else [])}
    top = _place(root, home.path)
    _make_folder(root, top, _mode(limits))
    made = [top, *_copy(root, _SKELETON, top)]
    for path in reversed(made):  # what is in a directory is there before its time is set
        if owners:
            with root.parent(path) as (fd, name):
                os.chown(name, home.uid, home.gid, dir_fd=fd, follow_symlinks=False)
        found[path] = (home.uid, home.gid)
    return found


def _place(root: Root, path: str) -> str:
    """Return a path with the links of its directories resolved."""
    above, _, name = path.rstrip("/").rpartition("/")
    return f"{(root.real(above or '/') or above).rstrip('/')}/{name}"


def _check_way(root: Root, folder: str) -> None:
    """Raise UsageError where something on the way to a directory is none."""
    here = ""
    for name in filter(None, folder.split("/")):
        here = f"{here}/{name}"
        if root.lstat(here) is not None and not root.is_dir(here):
            raise UsageError(
                f"a home below {folder} cannot be made: {here} in the image is no directory",
                hint="give the user another home, or create_home: false",
            )


def _mode(limits: Mapping[str, str]) -> int:
    """Return the mode of a home directory (login.defs(5): HOME_MODE, or else what UMASK leaves)."""
    home, mask = (limits.get(name, "") for name in ("HOME_MODE", "UMASK"))
    if _is_octal(home):
        return int(home, 8)
    if _is_octal(mask):
        return 0o777 & ~int(mask, 8)
    return 0o755


def _is_octal(value: str) -> bool:
    return bool(value) and set(value) <= set("01234567")


def _make_folder(root: Root, path: str, mode: int) -> None:
    with root.parent(path) as (fd, name):
        os.mkdir(name, 0o700, dir_fd=fd)
        os.chmod(name, mode, dir_fd=fd)


def _copy(root: Root, source: str, target: str) -> list[str]:
    """Copy what is in a directory of the image to another one; devices, pipes and sockets are left out."""
    if not root.is_dir(source):
        return []
    fd = root.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        names = sorted(os.listdir(fd))
    finally:
        os.close(fd)
    made: list[str] = []
    for name in names:
        old, new = f"{source}/{name}", f"{target}/{name}"
        info = root.lstat(old)
        if info is None:
            continue
        mode = stat.S_IMODE(info.st_mode)
        if stat.S_ISDIR(info.st_mode):
            _make_folder(root, new, mode)
            made += [new, *_copy(root, old, new)]
        elif stat.S_ISREG(info.st_mode):
            root.write(new, root.read(old), mode=mode)
            made.append(new)
        elif stat.S_ISLNK(info.st_mode):
            with root.parent(old) as (fd, last), root.parent(new) as (there, _):
                os.symlink(os.readlink(last, dir_fd=fd), name, dir_fd=there)
            made.append(new)
        else:
            continue
        with root.parent(new) as (fd, last):
            times = (info.st_atime_ns, info.st_mtime_ns)
            os.utime(last, ns=times, dir_fd=fd, follow_symlinks=False)
    return made
