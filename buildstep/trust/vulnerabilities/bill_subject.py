"""An inventory of a bill of materials that anybody wrote: SPDX 2.3 or 3.0, CycloneDX; by its package URLs.

Source packages come from the qualifier `upstream`, from GENERATED_FROM of SPDX, or from ancestors in
CycloneDX. Where nothing tells, a package is looked up by its own name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from buildstep.errors import UsageError
from buildstep.system.text import plural
from buildstep.trust.inventory.model import Component, Distro, Inventory, Kind
from buildstep.trust.purl import PackageUrl, parse

_LARGEST = 512 << 20
_KINDS: Mapping[str, Kind] = {
    "deb": "deb", "apk": "apk", "rpm": "rpm", "pypi": "pypi", "npm": "npm", "golang": "golang",
    "cargo": "cargo",
}  # fmt: skip


class _Named(NamedTuple):
    """A package of a bill. source: the package URL of its source, None where nothing tells."""

    purl: PackageUrl
    text: str
    source: PackageUrl | None = None


class _Bill(NamedTuple):
    name: str
    version: str
    digests: Mapping[str, str]
    packages: tuple[_Named, ...]
    system: tuple[str, str]


def is_bill(path: Path) -> bool:
    """Tell whether a file looks like a bill of materials. Raises OSError."""
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    if not head.lstrip().startswith(b"{"):
        return False
    return path.name.endswith((".spdx.json", ".cdx.json", ".spdx3.json")) or any(
        word in head for word in (b'"spdxVersion"', b'"bomFormat"', b"spdx-context.jsonld")
    )


def inventory_of(path: Path) -> Inventory:
    """Read a bill of materials. Raises UsageError for what is none."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST)
        value = json.loads(data)
        bill = _read(value)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path} is no bill of materials: {error}", hint="SPDX or CycloneDX, as JSON"
        ) from error
    components = tuple(component for named in bill.packages if (component := _component(named)))
    told = sum(component.kind == "deb" and not component.source for component in components)
    unknown = (
        (f"the source packages of {plural(told, 'deb package')} are not told: looked up by their own names",)
        if told and not any(component.source for component in components)
        else ()
    )
    if strangers := _of_another_system(bill):
        told_of = f"{plural(strangers, 'package')} of another system than most: looked up as of that"
        unknown = (*unknown, told_of)
    return Inventory(
        name=bill.name or path.name, version=bill.version, digests=bill.digests, components=components,
        distro=_distro(bill), unknown=unknown, complete=not unknown,
    )  # fmt: skip


def _read(value: Any) -> _Bill:
    if "spdxVersion" in value:
        return _spdx(value)
    if value.get("bomFormat") == "CycloneDX":
        return _cyclonedx(value)
    if "@graph" in value:
        return _spdx3(value["@graph"])
    raise ValueError("it has neither spdxVersion nor bomFormat")


def _component(named: _Named) -> Component | None:
    """Return a package as it is looked up; None for one of another kind, and for a source package."""
    purl, source = named.purl, ("", "")
    if purl.type == "generic" and purl.namespace == "pkgsrc":
        return Component(kind="pkgsrc", name=purl.name, version=purl.version, purl=named.text)
    if purl.type not in _KINDS or purl.qualifiers.get("arch") in ("source", "src"):
        return None
    if "upstream" in purl.qualifiers:
        name, _, version = purl.qualifiers["upstream"].partition("@")
        source = name, version or purl.version
    elif named.source is not None:
        source = named.source.name, named.source.version
    name = purl.name
    if purl.namespace and purl.type in ("npm", "golang"):
        name = f"{purl.namespace}/{name}"
    return Component(
        kind=_KINDS[purl.type], name=name, version=purl.version, arch=purl.qualifiers.get("arch", ""),
        purl=named.text, source=source[0], source_version=source[1],
    )  # fmt: skip


def _distro(bill: _Bill) -> Distro:
    """Return the system: as most package URLs have it, else the operating system that the bill names."""
    found = _systems(bill)
    name, version = bill.system
    if found:
        name, _, version = _most(found).partition("-")
    if not version[:1].isdigit():
        return Distro(id=name.lower(), codename=version)
    return Distro(id=name.lower(), version=version)


def _systems(bill: _Bill) -> Counter[str]:
    return Counter(text for named in bill.packages if (text := named.purl.qualifiers.get("distro", "")))


def _most(systems: Counter[str]) -> str:
    return max(sorted(systems), key=lambda text: systems[text])


def _of_another_system(bill: _Bill) -> int:
    """Return how many packages are said to be of another system, or release, than most are."""
    found = _systems(bill)
    return found.total() - found[_most(found)] if found else 0


def _named(text: object) -> Iterator[_Named]:
    if isinstance(text, str) and (purl := parse(text)):
        yield _Named(purl, text)


# -- the formats -----------------------------------------------------------------------------------------


def _spdx(value: Mapping[str, Any]) -> _Bill:
    packages: dict[str, _Named] = {}
    system = ("", "")
    rows = {row.get("SPDXID", ""): row for row in value.get("packages") or ()}
    for ident, row in rows.items():
        for ref in row.get("externalRefs") or ():
            if ref.get("referenceType") == "purl":
                packages.update((ident, named) for named in _named(ref.get("referenceLocator")))
        if row.get("primaryPackagePurpose") in ("OPERATING_SYSTEM", "OPERATING-SYSTEM"):
            system = str(row.get("name", "")), str(row.get("versionInfo", ""))
    described = list(value.get("documentDescribes") or ())
    for row in value.get("relationships") or ():
        left, kind, right = row["spdxElementId"], row["relationshipType"], row["relatedSpdxElement"]
        if kind == "DESCRIBES":
            described.append(right)
        elif kind == "GENERATED_FROM" and left in packages and right in packages:
            packages[left] = packages[left]._replace(source=packages[right].purl)
    about: Mapping[str, Any] = next((rows[ident] for ident in described if ident in rows), {})
    digests = {
        str(row.get("algorithm", "")).lower(): str(row.get("checksumValue", ""))
        for row in about.get("checksums") or ()
    }
    name = about.get("name") or value.get("name") or ""
    return _Bill(str(name), str(about.get("versionInfo") or ""), digests, tuple(packages.values()), system)


def _cyclonedx(value: Mapping[str, Any]) -> _Bill:
    packages, system = list[_Named](), ("", "")
    about = (value.get("metadata") or {}).get("component") or {}
    pending = list(value.get("components") or ())
    while pending:
        row = pending.pop()
        pending += row.get("components") or ()
        if row.get("type") == "operating-system":
            system = str(row.get("name", "")), str(row.get("version", ""))
        ancestors = (row.get("pedigree") or {}).get("ancestors") or ()
        source = next((named.purl for ancestor in ancestors for named in _named(ancestor.get("purl"))), None)
        packages += [named._replace(source=source) for named in _named(row.get("purl"))]
    digests = {
        str(row.get("alg", "")).replace("-", "").lower(): str(row.get("content", ""))
        for row in about.get("hashes") or ()
    }
    return _Bill(
        str(about.get("name") or ""), str(about.get("version") or ""), digests, tuple(packages), system
    )


def _spdx3(graph: list[Mapping[str, Any]]) -> _Bill:
    packages: dict[str, _Named] = {}
    names: dict[str, tuple[str, str]] = {}
    roots = list[str]()
    system = ("", "")
    for row in graph:
        ident = str(row.get("spdxId", ""))
        if row.get("type") == "software_Package":
            names[ident] = str(row.get("name", "")), str(row.get("software_packageVersion", ""))
            packages.update((ident, named) for named in _named(row.get("software_packageUrl")))
            if row.get("software_primaryPurpose") == "operatingSystem":
                system = names[ident]
        elif row.get("type") == "software_Sbom":
            roots += row.get("rootElement") or ()
    for row in graph:
        if row.get("type") == "Relationship" and row.get("relationshipType") == "generates":
            source = packages.get(str(row.get("from")))
            for ident in row.get("to") or ():
                if source is not None and ident in packages:
                    packages[ident] = packages[ident]._replace(source=source.purl)
    name, version = next((names[ident] for ident in roots if ident in names), ("", ""))
    return _Bill(name, version, {}, tuple(packages.values()), system)
