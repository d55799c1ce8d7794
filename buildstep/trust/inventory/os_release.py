"""Which system an image has: os-release(5), and SmartOS's product file."""

from __future__ import annotations

import re
import shlex

from buildstep.trust.inventory.interface import ROOTS, Reading, plain
from buildstep.trust.inventory.model import Distro

_PLACES = (b"etc/os-release", b"usr/lib/os-release")
_PRODUCT = b"etc/product"
_LIMIT = 1 << 16
_ID = re.compile(r"[^a-z0-9._-]")


def distro_of(reading: Reading) -> Distro:
    """Return the system of an image: all is empty where nothing tells."""
    for root in ROOTS:
        for place in _PLACES:
            if text := reading.text(place, root, _LIMIT):
                return _os_release(text)
        if (text := reading.text(_PRODUCT, root, _LIMIT)) and (found := _product(text)):
            return found
    return Distro()


def _os_release(text: str) -> Distro:
    fields = {}
    for row in text.splitlines():
        name, equals, value = row.strip().partition("=")
        if equals and not name.startswith("#"):
            try:
                fields[name] = plain("".join(shlex.split(value)[:1]), 200)
            except ValueError:  # a quote that is not closed
                fields[name] = plain(value.strip("\"'"), 200)
    return Distro(
        id=_ID.sub("", fields.get("ID", "linux").lower()),  # os-release(5): the default is `linux`
        version=fields.get("VERSION_ID", ""),
        codename=fields.get("VERSION_CODENAME", ""),
        name=fields.get("PRETTY_NAME") or fields.get("NAME", ""),
    )


def _product(text: str) -> Distro | None:
    """Return what a zone of SmartOS has: `Image: base-64-lts 24.4.1`."""
    match = re.search(r"^Image:[ \t]*(\S.*?)[ \t]+([0-9][^\s]*)[ \t]*$", text, re.MULTILINE)
    if match is None:
        return None
    return Distro(id="smartos", version=plain(match[2], 50), name=plain(f"{match[1]} {match[2]}", 200))
