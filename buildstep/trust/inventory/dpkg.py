"""Packages of dpkg: `status`, the `status.d` of images without dpkg, and the lists of what each owns.

deb822(5), dpkg-query(1). status.d has a file for each package, and for its paths an md5sums beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from buildstep.trust.inventory.deb822 import paragraphs
from buildstep.trust.inventory.debian_copyright import Copyrights
from buildstep.trust.inventory.interface import ROOTS, Database, Reading, plain
from buildstep.trust.inventory.model import Component
from buildstep.trust.purl import distro_text, purl, upstream

STATUS = b"var/lib/dpkg/status"
STATUS_D = b"var/lib/dpkg/status.d/"
INFO = b"var/lib/dpkg/info/"
DIVERSIONS = b"var/lib/dpkg/diversions"
EXTENDED = b"var/lib/apt/extended_states"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,200}")
_MOST_OF_A_NAME = 50
"""Packages that one name is looked up in: there are no more architectures, and few that provide the same."""

_SOURCE = re.compile(r"(\S+)(?:\s+\(([^)\s]+)\))?")
_WANTED = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9+.-]*)(?::([a-z0-9-]+))?")
_MD5 = re.compile(rb"^[0-9a-f]{32}  (.+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Package:
    fields: Mapping[str, str]
    paths: tuple[bytes, ...] = ()
    location: bytes = b""
    own: tuple[bytes, ...] = ()
    """Files of the database that are about this package."""

    @property
    def name(self) -> str:
        return self.fields["Package"]

    @property
    def arch(self) -> str:
        return plain(self.fields.get("Architecture", ""), 50)


@dataclass(slots=True)
class _Root:
    """One dpkg database. installed: name to packages, of each architecture one; provided: name to those
    that provide it."""

    top: bytes
    packages: list[_Package] = field(default_factory=list)
    refs: dict[int, str] = field(default_factory=dict)
    installed: dict[str, list[_Package]] = field(default_factory=dict)
    provided: dict[str, list[_Package]] = field(default_factory=dict)


def read(reading: Reading) -> None:
    """Add the installed packages of each dpkg database."""
    for top in ROOTS:
        root = _Root(top)
        root.packages.extend(_of_status(reading, top))
        root.packages.extend(_of_status_d(reading, top))
        if root.packages:
            _add(reading, root)


# -- what is installed, and what it owns ------------------------------------------------------------------


def _of_status(reading: Reading, top: bytes) -> Iterator[_Package]:
    text = reading.text(STATUS, top)
    if text is None:
        return
    lists = _database_files(reading, top)
    diverted = _diversions(reading, top)
    odd = 0
    for fields in paragraphs(text):
        if not fields.get("Status", "").endswith(" installed"):
            continue
        if not _NAME.fullmatch(fields.get("Package", "")):
            odd += 1
            continue
        name, arch = fields["Package"].encode(), fields.get("Architecture", "").encode(errors="replace")
        own = lists.get(name + b":" + arch) or lists.get(name) or {}
        paths = _listed(reading, own, fields)
        moved = {was: new for was, new, by in diverted if by != name}
        if moved:
            paths = [moved.get(path, path) for path in paths]
        yield _Package(
            fields=fields,
            paths=reading.present(paths, top),
            location=own.get(b"list", top + STATUS),
            own=tuple(own.values()),
        )
    if odd:
        reading.tell(f"dpkg's status has {odd} paragraphs that name no package")


def _of_status_d(reading: Reading, top: bytes) -> Iterator[_Package]:
    for path in reading.under(top + STATUS_D):
        if path.endswith(b".md5sums") or reading.entries[path].kind != "f":
            continue
        fields = next(paragraphs(reading.text(path) or ""), {})
        if not _NAME.fullmatch(fields.get("Package", "")):
            reading.tell(f"{path.decode(errors='backslashreplace')} names no package")
            continue
        sums = path + b".md5sums"
        own = (path, sums) if sums in reading.entries else (path,)
        paths = _MD5.findall(reading.read(sums) or b"")
        yield _Package(fields=fields, paths=reading.present(paths, top), location=path, own=own)


def _database_files(reading: Reading, top: bytes) -> dict[bytes, dict[bytes, bytes]]:
    """Return the files of dpkg's database by package (or PACKAGE:ARCH) and what they are (`list`)."""
    found: dict[bytes, dict[bytes, bytes]] = {}
    start = len(top + INFO)
    for path in reading.under(top + INFO):
        package, dot, what = path[start:].rpartition(b".")
        if dot:
            found.setdefault(package, {})[what] = path
    return found


def _listed(reading: Reading, own: Mapping[bytes, bytes], fields: Mapping[str, str]) -> list[bytes]:
    """Return the paths that a package owns; where its list was removed, those with a checksum."""
    if b"list" in own:
        data = reading.read(own[b"list"]) or b""
        return [row[1:] for row in data.split(b"\n") if row[:1] == b"/" and len(row) > 2]
    sums = _MD5.findall(reading.read(own[b"md5sums"]) or b"") if b"md5sums" in own else []
    rows = (row.split() for row in fields.get("Conffiles", "").splitlines())
    return [*sums, *(row[0].lstrip("/").encode(errors="replace") for row in rows if row)]


def _diversions(reading: Reading, top: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """Return what dpkg-divert(1) noted: a path, where others' file of that path goes, and whose it is not."""
    rows = (reading.read(DIVERSIONS, top) or b"").split(b"\n")
    triples = zip(rows[0::3], rows[1::3], rows[2::3], strict=False)
    return [(was.lstrip(b"/"), new.lstrip(b"/"), by) for was, new, by in triples if was]


# -- components -------------------------------------------------------------------------------------------


def _add(reading: Reading, root: _Root) -> None:
    distro = distro_text(reading.distro)
    for package in root.packages:
        root.refs[id(package)] = _purl(package, reading.distro.id or "debian", distro)
        _note(root.installed, package.name, package)
        for name, _ in _alternatives(package.fields.get("Provides", "").replace(",", "|")):
            _note(root.provided, name, package)
    automatic = _automatic(reading, root.top)
    copyrights = Copyrights(reading, root.top)
    for package in root.packages:
        reading.owned.update(package.own)
        reading.add(_component(reading, root, package, copyrights, automatic))


def _note(packages: dict[str, list[_Package]], name: str, package: _Package) -> None:
    rows = packages.setdefault(name, [])
    if len(rows) < _MOST_OF_A_NAME:
        rows.append(package)


def _component(
    reading: Reading,
    root: _Root,
    package: _Package,
    copyrights: Copyrights,
    automatic: set[tuple[str, str]],
) -> Component:
    fields = package.fields
    version = plain(fields.get("Version", ""), 200)
    source, source_version = _source(fields, version)
    found = copyrights.of(package.name)
    properties = {
        name.lower(): plain(fields[name], 4000)
        for name in ("Section", "Built-Using", "Static-Built-Using", "Multi-Arch", "Essential")
        if fields.get(name)
    }
    if automatic:
        properties["installed"] = "automatic" if (package.name, package.arch) in automatic else "manual"
    return Component(
        kind="deb",
        name=package.name,
        version=version,
        arch=package.arch,
        purl=root.refs[id(package)],
        source=source,
        source_version=source_version,
        supplier=plain(fields.get("Maintainer", "")),
        homepage=plain(fields.get("Homepage", "")),
        description=plain(fields.get("Description", "").partition("\n")[0]),
        copyright=found.copyright,
        license=found.license,
        depends=tuple(_depends(root, package)),
        files=package.paths,
        location=package.location,
        origin=reading.source.origin(package.location),
        properties=properties,
    )


def _purl(package: _Package, vendor: str, distro: str) -> str:
    version = plain(package.fields.get("Version", ""), 200)
    source = upstream(package.name, version, *_source(package.fields, version))
    return purl("deb", vendor, package.name, version, arch=package.arch, distro=distro, upstream=source)


def _source(fields: Mapping[str, str], version: str) -> tuple[str, str]:
    """Return the source package and its version: `Source: name (version)`, each left out where it is the
    package's own."""
    match = _SOURCE.match(plain(fields.get("Source", ""), 400))
    return (match[1], match[2] or version) if match else (fields["Package"], version)


def _automatic(reading: Reading, top: bytes) -> set[tuple[str, str]]:
    """Return the packages that apt installed because others need them."""
    rows = paragraphs(reading.text(EXTENDED, top) or "")
    return {
        (row.get("Package", ""), row.get("Architecture", ""))
        for row in rows
        if row.get("Auto-Installed", "").strip() == "1"
    }


def _alternatives(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and architecture of each package in `a (>= 1) | b:any`."""
    for part in text.split("|"):
        if match := _WANTED.match(part):
            yield match[1], match[2] or ""


def _depends(root: _Root, package: _Package) -> Iterable[str]:
    """Return the refs of what a package needs: of alternatives the first one that is there."""
    found: set[str] = set()
    for name in ("Pre-Depends", "Depends"):
        for wanted in package.fields.get(name, "").split(","):
            for alternative, arch in _alternatives(wanted):
                there = root.installed.get(alternative) or root.provided.get(alternative)
                if there:
                    found.update(root.refs[id(it)] for it in _of_arch(there, arch, package.arch))
                    break
    return sorted(found - {root.refs[id(package)]})


def _of_arch(packages: list[_Package], arch: str, own: str) -> list[_Package]:
    """Return those of an architecture: one that is named, or the package's own, or `all`; else any."""
    wanted = {own, "all"} if arch in ("", "any", "native") else {arch}
    return [it for it in packages if it.arch in wanted] or packages


DATABASE = Database(name="dpkg", what="packages of Debian and its kin", read=read)
