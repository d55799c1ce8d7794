"""Packages of Python that no package manager of the system brought: dist-info, and the older egg-info.

https://packaging.python.org/en/latest/specifications/: METADATA (core metadata, as of a mail), RECORD (paths,
relative to the directory that holds dist-info), direct_url.json (where it was installed from).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser

from buildstep.trust.inventory.interface import Database, Reading, plain
from buildstep.trust.inventory.licenses import Expressions
from buildstep.trust.inventory.model import Component, License
from buildstep.trust.purl import purl

_LIMIT = 16 << 20
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,200}[A-Za-z0-9])?")
_WANTED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)")
_SEPARATORS = re.compile(r"[-_.]+")
_HEX = re.compile(r"[0-9a-f]{64}")
_CLASSIFIERS = {
    "OSI Approved :: MIT License": "MIT",
    "OSI Approved :: MIT No Attribution License (MIT-0)": "MIT-0",
    "OSI Approved :: Apache Software License": "",
    "OSI Approved :: ISC License (ISCL)": "ISC",
    "OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "OSI Approved :: Mozilla Public License 1.1 (MPL 1.1)": "MPL-1.1",
    "OSI Approved :: Python Software Foundation License": "PSF-2.0",
    "OSI Approved :: GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "OSI Approved :: GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "OSI Approved :: GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "OSI Approved :: GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "OSI Approved :: GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "OSI Approved :: GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "OSI Approved :: GNU Affero General Public License v3": "AGPL-3.0-only",
    "OSI Approved :: GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
    "OSI Approved :: The Unlicense (Unlicense)": "Unlicense",
    "OSI Approved :: zlib/libpng License": "Zlib",
}
"""Classifiers that mean one licence; `Apache Software License` and `BSD License` mean several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Package:
    metadata: bytes
    folder: bytes
    fields: dict[str, list[str]]

    def get(self, name: str, limit: int = 1000) -> str:
        return plain((self.fields.get(name) or [""])[0], limit)


def read(reading: Reading) -> None:
    """Add the packages whose metadata no other package owns."""
    packages = list(_packages(reading))
    refs = {normal(it.get("name")): _purl(it) for it in packages}
    for it in packages:
        ref, direct = _purl(it), _direct(reading, it)
        wanted = {refs[name] for name in _needs(it) if name in refs}
        installer = reading.text(it.folder + b"/INSTALLER", limit=1000) or ""
        reading.add(
            Component(
                kind="pypi",
                name=it.get("name", 200),
                version=it.get("version", 200),
                purl=ref,
                supplier=_author(it),
                homepage=it.get("home-page"),
                description=it.get("summary"),
                license=_license(it),
                depends=tuple(sorted(wanted - {ref})),
                hashes=direct[1],
                files=reading.present(_files(reading, it)),
                location=it.metadata,
                origin=reading.source.origin(it.metadata),
                properties={
                    name: value
                    for name, value in (("installer", plain(installer, 100)), ("installed from", direct[0]))
                    if value
                },
            )
        )


def normal(name: str) -> str:
    """Return the form of a name by which two are the same (PEP 503)."""
    return _SEPARATORS.sub("-", name).lower()


def _packages(reading: Reading) -> Iterator[_Package]:
    places = [*reading.named(b"METADATA"), *reading.named(b"PKG-INFO")]
    # The oldest form is a file beside the package: NAME-VERSION.egg-info.
    places += [path for path in reading.ending(b".egg-info") if reading.entries[path].kind == "f"]
    for path in places:
        folder, _, name = path.rpartition(b"/")
        if name == b"METADATA" and not folder.endswith(b".dist-info"):
            continue
        if name == b"PKG-INFO" and not folder.endswith((b".egg-info", b"EGG-INFO")):
            continue
        if path in reading.owned:
            continue
        fields = _headers(reading.text(path, limit=_LIMIT) or "")
        package = _Package(metadata=path, folder=folder, fields=fields)
        if _NAME.fullmatch(package.get("name")):
            yield package
        else:
            reading.tell(f"{path.decode(errors='backslashreplace')} names no package")


def _headers(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in HeaderParser().parsestr(text.partition("\n\n")[0] + "\n\n").items():
        found.setdefault(name.lower(), []).append(str(value))
    return found


def _purl(it: _Package) -> str:
    return purl("pypi", "", it.get("name", 200).lower().replace("_", "-"), it.get("version", 200))


def _needs(it: _Package) -> Iterator[str]:
    for text in it.fields.get("requires-dist", ()):
        match = _WANTED.match(text.strip())
        if match and "extra" not in text.partition(";")[2]:
            yield normal(match[1])


def _author(it: _Package) -> str:
    name, mail = (
        it.get("author") or it.get("maintainer"),
        it.get("author-email") or it.get("maintainer-email"),
    )
    if "<" in mail or not name:
        return mail
    return f"{name} <{mail}>" if mail else name


def _license(it: _Package) -> License:
    """Return what the metadata says: the expression of metadata 2.4, else the field, else the classifiers."""
    if text := it.get("license-expression", 4000):
        return Expressions().all_of([text])
    classifiers = [row[11:] for row in it.fields.get("classifier", ()) if row.startswith("License :: ")]
    known = [name for row in classifiers if (name := _CLASSIFIERS.get(row))]
    text = (it.fields.get("license") or [""])[0].strip()
    if text and len(text) < 100 and "\n" not in text:
        return Expressions().all_of([text])
    if known:
        return Expressions().all_of(known)
    whole = text or "; ".join(classifiers)
    name = "-".join([it.get("name", 50), "license"])
    return Expressions(lambda _name: whole).all_of([name] if whole else [])


def _direct(reading: Reading, it: _Package) -> tuple[str, dict[str, str]]:
    """Return where a package was installed from, without user and password, and the archive's hash."""
    try:
        said = json.loads(reading.read(it.folder + b"/direct_url.json", limit=1 << 20) or b"{}")
        url = re.sub(r"//[^/@]*@", "//", str(said.get("url", "")))
        digest = (said.get("archive_info", {}).get("hashes") or {}).get("sha256", "")
    except (ValueError, AttributeError, RecursionError):
        return "", {}
    local = url.startswith("file:")
    good = isinstance(digest, str) and _HEX.fullmatch(digest)
    return "" if local else plain(url), {"sha256": digest} if good else {}


def _files(reading: Reading, it: _Package) -> list[bytes]:
    """Return what a package owns: the rows of RECORD, or of egg-info's list, and its own directory."""
    own = list(reading.under(it.folder + b"/")) if it.folder.endswith((b".dist-info", b".egg-info")) else []
    top, rows = it.folder.rpartition(b"/")[0], list[bytes]()
    if record := reading.text(it.folder + b"/RECORD"):
        try:
            rows = [row[0].encode(errors="replace") for row in csv.reader(record.splitlines()) if row]
        except csv.Error:
            reading.tell(f"the list of files of {it.get('name', 200)} is damaged")
    elif listed := reading.read(it.folder + b"/installed-files.txt"):
        top, rows = it.folder, listed.splitlines()
    places = [row.lstrip(b"/") if row.startswith(b"/") else top + b"/" + row for row in rows if row]
    return [*own, it.metadata, *map(_straight, places)]


def _straight(path: bytes) -> bytes:
    """Return a path without `..`, which RECORD has for programs: site-packages/../../../bin/x."""
    done: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del done[-1:]
        elif part not in (b"", b"."):
            done.append(part)
    return b"/".join(done)


DATABASE = Database(name="python", what="packages of Python", read=read)
