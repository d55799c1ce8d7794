"""Packages of Alpine and its kin: `lib/apk/db/installed`, paragraphs of fields of one letter.

https://wiki.alpinelinux.org/wiki/Apk_spec: P name, V version, A architecture, L licence, o source,
m maintainer, U home page, T description, D needs, p what it provides, c commit, F directory, R file in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from buildstep.trust.inventory.interface import ROOTS, Database, Reading, plain
from buildstep.trust.inventory.licenses import Expressions
from buildstep.trust.inventory.model import Component
from buildstep.trust.purl import distro_text, purl, upstream

_PLACES = (b"lib/apk/db/installed", b"usr/lib/apk/db/installed")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,200}")
_WANTED = re.compile(r"([^\s<>=~!@]+)")


@dataclass(slots=True)
class _Package:
    fields: dict[str, str] = field(default_factory=dict)
    paths: list[bytes] = field(default_factory=list)

    def get(self, letter: str, limit: int = 1000) -> str:
        return plain(self.fields.get(letter, ""), limit)


def read(reading: Reading) -> None:
    """Add the packages of each apk database; the two places are one since usr-merge."""
    for top in ROOTS:
        for path in dict.fromkeys(reading.real(place, top) for place in _PLACES):
            data = reading.read(path)
            if data is not None:
                _add(reading, top, path, list(_packages(data)))


def _packages(data: bytes) -> Iterator[_Package]:
    for paragraph in data.split(b"\n\n"):
        package, folder = _Package(), b""
        for row in paragraph.split(b"\n"):
            letter, value = row[:2], row[2:]
            if letter == b"F:":
                folder = value.strip(b"/") + b"/" if value else b""
            elif letter == b"R:":
                package.paths.append(folder + value)
            elif letter[1:] == b":":
                package.fields.setdefault(letter[:1].decode(errors="replace"), value.decode(errors="replace"))
        if package.fields:
            yield package


def _add(reading: Reading, top: bytes, location: bytes, packages: list[_Package]) -> None:
    good = [it for it in packages if _NAME.fullmatch(it.get("P"))]
    if len(good) < len(packages):
        reading.tell(f"apk's database has {len(packages) - len(good)} paragraphs that name no package")
    refs = {id(it): _purl(reading, it) for it in good}
    providers: dict[str, str] = {}
    for it in good:
        for name in (it.fields["P"], *_names(it.fields.get("p", ""))):
            providers.setdefault(name, refs[id(it)])
    for it in good:
        ref, version = refs[id(it)], it.get("V", 200)
        wanted = {providers[name] for name in _names(it.fields.get("D", "")) if name in providers}
        reading.add(
            Component(
                kind="apk",
                name=it.fields["P"],
                version=version,
                arch=it.get("A", 50),
                purl=ref,
                source=it.get("o", 200) or it.fields["P"],
                source_version=version,
                supplier=it.get("m"),
                homepage=it.get("U"),
                description=it.get("T"),
                license=Expressions().all_of([it.get("L")]),
                depends=tuple(sorted(wanted - {ref})),
                files=reading.present(it.paths, top),
                location=location,
                origin=reading.source.origin(location),
                properties={
                    f"apk:{name}": it.get(letter) for name, letter in _TOLD.items() if it.get(letter)
                },
            )
        )


_TOLD = {"commit": "c", "checksum": "C"}


def _purl(reading: Reading, it: _Package) -> str:
    name, version = it.fields["P"], it.get("V", 200)
    source = upstream(name, version, it.get("o", 200), version)
    vendor, distro = reading.distro.id or "alpine", distro_text(reading.distro)
    return purl("apk", vendor, name, version, arch=it.get("A", 50), distro=distro, upstream=source)


def _names(text: str) -> list[str]:
    """Return the names in `so:libc.musl-x86_64.so.1 busybox>=1.2 !uclibc`; what must not be there is left
    out."""
    found = (_WANTED.match(part) for part in text.split())
    return [match[1] for match in found if match]


DATABASE = Database(name="apk", what="packages of Alpine and its kin", read=read)
