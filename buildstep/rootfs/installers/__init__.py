"""Package managers inside an image: the table of them, and which one an image has."""

from __future__ import annotations

from collections.abc import Callable

from buildstep.errors import UsageError
from buildstep.rootfs.interface import Installer
from buildstep.system.registry import Registry, importing
from buildstep.system.root import Root

INSTALLERS: Registry[type[Installer]] = Registry(
    "installers",
    "installer",
    {
        "apt": importing("buildstep.rootfs.installers.apt:Apt"),
        "pkgsrc": importing("buildstep.rootfs.installers.pkgsrc:Pkgsrc"),
        "dnf": importing("buildstep.rootfs.installers.dnf:Dnf"),
    },
)
"""The order is the order of detection."""


def get(name: str) -> Installer:
    """Return the installer of this name. Raises UsageError: unknown, or of a package that does not load."""
    found = INSTALLERS.find(name)
    if found is None:
        raise UsageError(f"there is no installer {name!r}", hint=INSTALLERS.hint(name))
    return found()


def detect(root: Root, *, note: Callable[[str], None] = lambda _text: None) -> Installer | None:
    """Return the installer for what is in the root, None if there is none.

    note: is given a line for each installer of another package that does not load.
    """
    ours = detect_ours(root)
    if ours is not None:
        return ours
    for kind in INSTALLERS.plugins(note).values():
        if kind.detect(root):
            return kind()
    return None


def detect_ours(root: Root) -> Installer | None:
    """Return the first of our own installers for what is in the root, without a look at other packages."""
    return next((kind() for kind in INSTALLERS.values() if kind.detect(root)), None)
