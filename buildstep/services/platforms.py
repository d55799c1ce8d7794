"""Platforms, as `platform.supported` names them, and which of them this machine is.

A machine has several names, from the wide to the narrow: `generic`, `unix`, `linux`, `linux64`, then those of
its distribution and the ones that this is like, with its word length and version: `debian`, `debian64`,
`debian12`. Source of the distribution: os-release(5).
"""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Iterable

from buildstep.services.hrd import Document

KEY = "platform.supported"


def names_of(release: dict[str, str], system: str, bits: str) -> frozenset[str]:
    """Return the names of a machine. release: its os-release; system: as uname(1) has it; bits: 64 or 32."""
    kind = {"sunos": "solaris"}.get(system.lower(), system.lower())
    found = {"generic", "unix", kind, f"{kind}{bits}"}
    for name in (release.get("ID", ""), *release.get("ID_LIKE", "").split()):
        if name:
            found |= {name, f"{name}{bits}"}
    if release.get("ID") and release.get("VERSION_ID"):
        found.add(f"{release['ID']}{release['VERSION_ID']}")
    return frozenset(name.lower() for name in found)


@functools.cache
def host() -> frozenset[str]:
    """Return the names of this machine."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:  # there is none
        release = {}
    return names_of(release, platform.system(), "64" if sys.maxsize > 2**32 else "32")


def shares(wanted: Iterable[str], machine: frozenset[str]) -> bool:
    """Return whether a machine is one of the platforms that are wanted; none wanted is any."""
    names = [name.strip().lower() for name in wanted if name.strip()]
    return not names or not machine.isdisjoint(names)


def unsupported(template: Document, machine: frozenset[str] | None = None) -> str:
    """Return why services of a template cannot run on a machine (default: this one), "" where they can."""
    names = host() if machine is None else machine
    wanted = [str(name) for name in template.items(KEY)] if KEY in template else []
    if shares(wanted, names):
        return ""
    return f"{KEY} is {', '.join(wanted)}, and this machine is {', '.join(sorted(names))}"
