"""The cleaner of the machine id."""

from __future__ import annotations

import stat

from buildstep.rootfs.cleaners.interface import Cleaning

_ID = "/etc/machine-id"
_DBUS_ID = "/var/lib/dbus/machine-id"


def clean(work: Cleaning) -> None:
    """Empty the machine id, as machine-id(5) asks of an image: each machine made from it gets its own."""
    found = work.root.lstat(_ID)
    if found is not None and stat.S_ISREG(found.st_mode) and found.st_size and _ID not in work.options.keep:
        work.root.write(_ID, b"", mode=stat.S_IMODE(found.st_mode))
        work.count(_ID, found.st_size)
    dbus = work.root.lstat(_DBUS_ID)
    if dbus is not None and stat.S_ISREG(dbus.st_mode):  # a link to the other file is right as it is
        work.remove(_DBUS_ID)
