"""Packages of npm: the directories in node_modules, with what its lock file says of where each came from.

package.json (docs.npmjs.com/cli/configuring-npm/package-json); node_modules/.package-lock.json has for each
path the address (`resolved`) and a hash (`integrity`, as of Subresource Integrity).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from buildstep.trust.inventory.interface import Database, Reading, plain
from buildstep.trust.inventory.licenses import Expressions
from buildstep.trust.inventory.model import Component, License
from buildstep.trust.purl import purl

_FOLDER = re.compile(rb"(?:.*/)?node_modules/(?:@[^/]+/)?[^/@.][^/]*", re.DOTALL)
_NAME = re.compile(r"(?:@[A-Za-z0-9~._-]{1,100}/)?[A-Za-z0-9~._-]{1,214}")
_HIDDEN_LOCK = b"node_modules/.package-lock.json"
_HASHES = ("sha512", "sha256", "sha1")

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Package:
    folder: bytes
    said: Json

    @property
    def name(self) -> str:
        return _string(self.said.get("name"), 300)

    @property
    def version(self) -> str:
        return _string(self.said.get("version"), 200)


def read(reading: Reading) -> None:
    """Add the packages in node_modules that no package of the system owns."""
    packages = {it.folder: it for it in _packages(reading)}
    if not packages:
        return
    files = _files(reading, packages)
    locks: dict[bytes, Json] = {}
    for folder, it in packages.items():
        locked = _locked(reading, locks, folder)
        resolved = _resolved(locked)
        ref, location = _purl(it), folder + b"/package.json"
        reading.add(
            Component(
                kind="npm",
                name=it.name,
                version=it.version,
                purl=ref,
                supplier=_person(it.said.get("author")),
                homepage=_string(it.said.get("homepage")),
                description=_string(it.said.get("description")),
                license=_license(it),
                depends=tuple(sorted(_needs(packages, it) - {ref})),
                hashes=_integrity(locked.get("integrity")),
                files=tuple(files.get(folder, ())),
                location=location,
                origin=reading.source.origin(location),
                properties={"resolved": resolved} if resolved else {},
            )
        )


def _packages(reading: Reading) -> Iterator[_Package]:
    for path in reading.named(b"package.json"):
        folder = path[: -len(b"/package.json")]
        if not path.endswith(b"/package.json") or not _FOLDER.fullmatch(folder) or path in reading.owned:
            continue
        package = _Package(folder=folder, said=_json(reading, path))
        if _NAME.fullmatch(package.name):
            yield package
        else:
            reading.tell(f"{path.decode(errors='backslashreplace')} names no package")


def _json(reading: Reading, path: bytes) -> Json:
    try:
        found = json.loads(reading.read(path) or b"")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _string(value: object, limit: int = 1000) -> str:
    return plain(value, limit) if isinstance(value, str) else ""


def _purl(it: _Package) -> str:
    scope, _, name = it.name.rpartition("/")
    return purl("npm", scope, name, it.version)


def _person(value: object) -> str:
    """Return a person as `Name <mail>`, of the text that npm has or of its object."""
    if isinstance(value, dict):
        name, mail = _string(value.get("name")), _string(value.get("email"))
        return f"{name} <{mail}>" if name and mail else name or mail
    return re.sub(r"\s*\([^)]*\)", "", _string(value))


def _license(it: _Package) -> License:
    """Return the licence: an expression; in older packages an object, or a list of them to choose from."""
    said = it.said.get("license") or it.said.get("licenses")
    rows = said if isinstance(said, list) else [said]
    names = [_string(row.get("type") if isinstance(row, dict) else row, 1000) for row in rows[:100]]
    names = [name for name in names if name]
    if len(names) == 1 and (names[0].upper().startswith("SEE LICENSE IN") or names[0] == "UNLICENSED"):
        text = names[0]
        return Expressions(lambda _name: text).all_of([f"{it.name.rpartition('/')[2]}-license"])
    return Expressions().all_of([" or ".join(f"({name})" for name in names)] if names else [])


def _needs(packages: Mapping[bytes, _Package], it: _Package) -> set[str]:
    """Return the refs of what a package needs, each from the nearest node_modules, as node looks for it."""
    found = set()
    for kind in ("dependencies", "optionalDependencies", "peerDependencies"):
        wanted = it.said.get(kind)
        for name in wanted if isinstance(wanted, dict) else ():
            there = _nearest(packages, it.folder, name.encode(errors="replace"))
            if there is not None:
                found.add(_purl(there))
    return found


def _nearest(packages: Mapping[bytes, _Package], folder: bytes, name: bytes) -> _Package | None:
    place = folder + b"/node_modules/" + name
    while place not in packages:
        at = folder.rfind(b"node_modules/")
        if at < 0 or (at and folder[at - 1 : at] != b"/"):
            return None
        place, folder = folder[:at] + b"node_modules/" + name, folder[:at].rstrip(b"/")
    return packages[place]


def _locked(reading: Reading, locks: dict[bytes, Json], folder: bytes) -> Json:
    """Return what the lock file of the outermost node_modules says of a package."""
    at = (b"/" + folder).find(b"/node_modules/")
    top = folder[:at]
    if top not in locks:
        rows = _json(reading, top + _HIDDEN_LOCK).get("packages")
        locks[top] = rows if isinstance(rows, dict) else {}
    found = locks[top].get(folder[at:].decode(errors="replace"))
    return found if isinstance(found, dict) else {}


def _resolved(locked: Json) -> str:
    """Return where a package was fetched from, without user and password."""
    address = _string(locked.get("resolved"), 2000)
    return re.sub(r"//[^/@]*@", "//", address) if address.startswith(("https://", "http://", "git+")) else ""


def _integrity(value: object) -> dict[str, str]:
    """Return the hash of `sha512-BASE64`, the strongest where there are several."""
    rows = dict(row.partition("-")[::2] for row in _string(value, 2000).split())
    for name in _HASHES:
        try:
            data = base64.b64decode(rows.get(name, ""), validate=True)
        except (binascii.Error, ValueError):
            continue
        if data:
            return {name: data.hex()}
    return {}


def _files(reading: Reading, packages: Mapping[bytes, _Package]) -> dict[bytes, list[bytes]]:
    """Return the files of each package: those below it that are not another one's."""
    found: dict[bytes, list[bytes]] = {}
    owner_of: dict[bytes, bytes | None] = {b"": None}

    def owner(folder: bytes) -> bytes | None:
        todo = []
        while folder not in owner_of and folder not in packages:
            todo.append(folder)
            folder = folder.rpartition(b"/")[0]
        known = folder if folder in packages else owner_of[folder]
        for each in reversed(todo):
            # What lies in node_modules itself, such as .bin and the lock, is of no package.
            known = None if each.endswith(b"/node_modules") else known
            owner_of[each] = known
        return known

    for path in reading.paths:
        if b"node_modules/" in path and reading.entries[path].kind != "d":
            package = owner(path.rpartition(b"/")[0])
            if package is not None and path not in reading.owned:
                found.setdefault(package, []).append(path)
    return found


DATABASE = Database(name="npm", what="packages of npm", read=read)
