"""The package that a program says it is from: a note in it, which its distribution linked in.

https://systemd.io/ELF_PACKAGE_METADATA (section .note.package, owner FDO, type 0xcafe1a7e): JSON with type,
name, version, architecture, os, osVersion.
"""

from __future__ import annotations

import json
import re

from buildstep.formats.elf_sections import notes
from buildstep.trust.inventory.interface import plain
from buildstep.trust.inventory.model import Component, Origin
from buildstep.trust.purl import purl

SECTION = b".note.package"

_TYPE = 0xCAFE1A7E
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,200}")
_KINDS = ("deb", "rpm", "apk", "alpm")


def components(section: bytes, path: bytes, origin: Origin) -> list[Component]:
    """Return the package that a program names; nothing where it names none."""
    for big in (False, True):
        for owner, kind, content in notes(section, big=big):
            if owner == b"FDO" and kind == _TYPE:
                return _package(content, path, origin)
    return []


def _package(content: bytes, path: bytes, origin: Origin) -> list[Component]:
    try:
        said = json.loads(content.rstrip(b"\0").decode(errors="replace"))
        fields = {key: plain(value, 200) for key, value in said.items() if isinstance(value, str)}
    except (ValueError, AttributeError, RecursionError):
        return []
    name, version, kind = (fields.get(key, "") for key in ("name", "version", "type"))
    if not _NAME.fullmatch(name):
        return []
    distro = "-".join(filter(None, (fields.get("os"), fields.get("osVersion"))))
    known = kind in _KINDS and fields.get("os")
    address = purl(
        kind if known else "generic",
        fields.get("os", "") if known else "",
        name,
        version,
        arch=fields.get("architecture"),
        distro=distro,
    )
    told = {f"note:{key}": value for key, value in fields.items() if key in ("type", "osCpe", "appCpe")}
    return [
        Component(
            kind="elf",
            name=name,
            version=version,
            arch=fields.get("architecture", ""),
            purl=address,
            location=path,
            origin=origin,
            properties=told,
        )
    ]
