"""Package managers inside an image: the table of them, and which one an image has."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from importlib import metadata

from buildstep.errors import UsageError
from buildstep.rootfs.installers.apt import Apt
from buildstep.rootfs.installers.pkgsrc import Pkgsrc
from buildstep.rootfs.interface import Installer
from buildstep.system.root import Root

GROUP = "buildstep.rootfs.installers"
"""The entry-point group by which another package adds an installer: NAME = module:Class."""

INSTALLERS: Mapping[str, type[Installer]] = {"apt": Apt, "pkgsrc": Pkgsrc}
"""Ours. The order is the order of detection."""


def plugins() -> tuple[dict[str, type[Installer]], dict[str, str]]:
    """Installers of other packages, and why those that did not load did not, both by name."""
    loaded: dict[str, type[Installer]] = {}
    broken: dict[str, str] = {}
    for point in metadata.entry_points(group=GROUP):
        try:
            loaded[point.name] = point.load()
        except Exception as error:  # noqa: BLE001 - whatever a stranger's module raises, ours go on
            broken[point.name] = f"{point.value}: {type(error).__name__}: {error}"
    return loaded, broken


def get(name: str) -> Installer:
    """The installer of this name. Raises UsageError with the near miss, or why a plug-in did not load."""
    if name in INSTALLERS:
        return INSTALLERS[name]()
    loaded, broken = plugins()
    if name in loaded:
        return loaded[name]()
    if name in broken:
        raise UsageError(
            f"the installer {name} could not be loaded: {broken[name]}",
            hint="mend or uninstall the package that brings it",
        )
    known = [*INSTALLERS, *loaded]
    near = difflib.get_close_matches(name, known, n=1)
    raise UsageError(
        f"there is no installer {name!r}",
        hint=f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}",
    )


def detect(root: Root, *, note: Callable[[str], None] = lambda _text: None) -> Installer | None:
    """The installer for what is in the root, None if there is none. note: told of broken plug-ins."""
    for kind in INSTALLERS.values():
        if kind.detect(root):
            return kind()
    loaded, broken = plugins()
    for name, why in broken.items():
        note(f"the installer {name} could not be loaded: {why}")
    for kind in loaded.values():
        if kind.detect(root):
            return kind()
    return None
