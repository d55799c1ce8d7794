"""Modules of a program in Go, from its build information (package debug/buildinfo of Go 1.18 and later).

Section .go.buildinfo: 14 bytes of magic, the size of pointers, flags (bit 1: texts follow at 32, each with
its length as a varint): the version of Go, and between marks of 16 bytes lines `mod PATH VERSION SUM`,
`dep ...`, `=> ...` for what replaces the line before, `build KEY=VALUE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from buildstep.trust.inventory.interface import plain
from buildstep.trust.inventory.model import Component, Origin
from buildstep.trust.purl import purl

SECTION = b".go.buildinfo"
STANDARD_LIBRARY = "stdlib"

_MAGIC = b"\xff Go buildinf:"
_INLINE = 2
_MARK = 16
_TOLD = ("GOARCH", "GOOS", "vcs", "vcs.revision", "vcs.modified")
_MOST_MODULES = 20_000
_PATH = re.compile(r"[A-Za-z0-9._~/-]{1,500}")
_GO = re.compile(r"go(\d\S*)")


def components(section: bytes, path: bytes, origin: Origin) -> list[Component]:
    """Return the program's main module, which needs all others, its modules and the standard library."""
    at = section.find(_MAGIC)
    if at < 0 or len(section) < at + 32 or not section[at + 15] & _INLINE:
        return []
    texts = _texts(section, at + 32)
    version = plain(next(texts, b"").decode(errors="replace"), 200)
    rows = next(texts, b"")[_MARK:-_MARK].decode(errors="replace").splitlines()[:_MOST_MODULES]
    modules = [_standard_library(version, path, origin)]
    main, settings = ("", "", ""), dict[str, str]()
    for kind, *fields in (row.split("\t") for row in rows):
        name, number, total = (*fields, "", "", "")[:3]
        if kind == "mod":
            main = name, number, total
        elif kind == "dep" and _PATH.fullmatch(name):
            modules.append(_module(name, number, total, path, origin))
        elif kind == "=>" and _PATH.fullmatch(name) and len(modules) > 1:
            modules[-1] = _module(name, number, total, path, origin)
        elif kind == "build":
            key, _, value = name.partition("=")
            settings[key] = plain(value, 200)
    if not _PATH.fullmatch(main[0]):
        return modules
    needs = tuple(sorted({it.ref for it in modules}))
    return [_module(*main, path, origin, needs=needs, settings=settings), *modules]


def _texts(section: bytes, at: int) -> Iterator[bytes]:
    for _ in range(2):
        size, shift = 0, 0
        while at < len(section) and shift < 63:
            byte = section[at]
            size |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                break
        yield section[at : at + size]
        at += size


def _standard_library(version: str, path: bytes, origin: Origin) -> Component:
    match = _GO.match(version)
    number = match[1] if match else version
    return Component(
        kind="golang",
        name=STANDARD_LIBRARY,
        version=number,
        purl=purl("golang", "", STANDARD_LIBRARY, number),
        location=path,
        origin=origin,
    )


def _module(
    name: str,
    version: str,
    total: str,
    path: bytes,
    origin: Origin,
    needs: tuple[str, ...] = (),
    settings: dict[str, str] | None = None,
) -> Component:
    number = "" if version == "(devel)" else plain(version, 200)
    told = {f"go:{key}": value for key, value in (settings or {}).items() if key in _TOLD and value}
    if total:
        told["go:sum"] = plain(total, 200)
    namespace, _, last = name.lower().rpartition("/")  # the form of the type golang
    return Component(
        kind="golang",
        name=name,
        version=number,
        purl=purl("golang", namespace, last, number),
        depends=needs,
        location=path,
        origin=origin,
        properties=told,
    )
