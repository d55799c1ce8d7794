"""CycloneDX 1.6 as JSON.

Source: the schema bom-1.6. Licences are one expression each, declared by the package; the base image and the
source packages are ancestors (`pedigree`), so that no scanner counts them as installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from buildstep import __version__
from buildstep.trust.inventory.model import OwnFile
from buildstep.trust.sbom.bill import (
    TOOL,
    UNNAMED,
    Bill,
    FileGroup,
    Row,
    encoded,
    is_url,
    known_hashes,
    origin_properties,
    text_of,
    without_empty,
)
from buildstep.trust.sbom.interface import SbomFormat

_HASHES = {"sha1": "SHA-1", "sha256": "SHA-256", "sha512": "SHA-512", "md5": "MD5"}
_IMAGE, _DISTRO = "image", "operating-system"
_PHASES = {"build": "build", "analyzed": "post-build"}
_MANAGED = frozenset({"deb", "pkgsrc", "apk", "rpm"})
"""Kinds of components whose database tells all that they depend on."""


def write(bill: Bill) -> bytes:
    """Return the document of a bill."""
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": UNNAMED,
        "version": 1,
        "metadata": _metadata(bill),
        "components": list(_components(bill)),
        "dependencies": list(_dependencies(bill)),
        "compositions": list(_compositions(bill)),
    }
    return encoded(document)


FORMAT = SbomFormat(
    about="CycloneDX 1.6",
    ending=".cdx.json",
    media_type="application/vnd.cyclonedx+json",
    predicate_type="https://cyclonedx.org/bom",
    write=write,
)


def _metadata(bill: Bill) -> dict[str, Any]:
    supplier = bill.inventory.supplier
    return without_empty(
        {
            "timestamp": bill.created,
            "lifecycles": [{"phase": _PHASES[bill.phase]}],
            "tools": {"components": [{"type": "application", "name": TOOL, "version": __version__}]},
            "component": _image(bill),
            "supplier": {"name": supplier} if supplier else None,
            "properties": [{"name": "cdx:reproducible", "value": "true"}],
        }
    )


def _image(bill: Bill) -> dict[str, Any]:
    given = bill.inventory
    return without_empty(
        {
            "type": "container",
            "bom-ref": _IMAGE,
            "name": given.name,
            "version": given.version,
            "description": given.description,
            "purl": bill.purl,
            "hashes": _hashes(bill.hashes),
            "pedigree": {"ancestors": [_base(bill)]} if given.base is not None else None,
            "properties": _properties(bill.properties),
        }
    )


def _base(bill: Bill) -> dict[str, Any]:
    base = bill.inventory.base
    assert base is not None
    digest = base.digest.removeprefix("sha256:")
    return without_empty(
        {
            "type": "container",
            "name": base.name or base.label,
            "version": base.version,
            "purl": bill.base_purl,
            "hashes": _hashes({"sha256": digest} if digest else {}),
            "properties": _properties(bill.base_properties),
        }
    )


def _components(bill: Bill) -> Iterator[dict[str, Any]]:
    distro = bill.inventory.distro
    if distro.id:  # scanners know by it which packages these are, and skip them without it
        yield without_empty(
            {
                "type": "operating-system",
                "bom-ref": _DISTRO,
                "name": distro.id,
                "version": distro.version,
                "description": distro.name,
                "cpe": bill.distro_cpe,
            }
        )
    for row in bill.rows:
        yield _package(row, bill)
    for group in bill.groups:
        if not group.listed:
            yield _group(group)
    for _, file in bill.listed:
        yield _file(file)


def _package(row: Row, bill: Bill) -> dict[str, Any]:
    found = row.component
    name, group = found.name, ""
    if found.kind == "npm" and name.startswith("@"):
        group, _, name = name.partition("/")
    website = [{"type": "website", "url": found.homepage}] if is_url(found.homepage) else []
    return without_empty(
        {
            "type": "application" if found.kind in ("golang", "cargo", "elf") else "library",
            "bom-ref": row.ref,
            "group": group,
            "name": name or found.name,
            "version": found.version,
            "description": found.description,
            "supplier": {"name": found.supplier} if found.supplier else None,
            "copyright": found.copyright,
            "purl": found.purl,
            "cpe": row.cpe,
            "hashes": _hashes(found.hashes),
            "licenses": _licenses(row.license, bill),
            "externalReferences": website,
            "pedigree": {"ancestors": [_ancestor(row)]} if row.source is not None else None,
            "evidence": _evidence(row, bill),
            "properties": _properties(row.properties),
        }
    )


def _ancestor(row: Row) -> dict[str, Any]:
    source = row.source
    assert source is not None
    said = {"type": "library", "name": source.name, "version": source.version, "purl": source.purl}
    return without_empty(said)


def _licenses(expression: str, bill: Bill) -> list[dict[str, Any]]:
    """Return a licence, declared. One that stands alone and has no id of SPDX brings its text."""
    if not expression:
        return []
    if expression in bill.licenses.texts:
        return [_text(expression, bill)]
    return [{"expression": expression, "acknowledgement": "declared"}]


def _text(ref: str, bill: Bill) -> dict[str, Any]:
    content = {"contentType": "text/plain", "content": bill.licenses.texts[ref]}
    return {"license": {"name": ref, "acknowledgement": "declared", "text": content}}


def _evidence(row: Row, bill: Bill) -> dict[str, Any] | None:
    """Return where a component was found, and the texts that its licence names: an expression has no room."""
    refs = bill.licenses.refs(row.license) if row.license not in bill.licenses.texts else []
    found = {
        "occurrences": [{"location": place} for place in row.locations],
        "licenses": [_text(ref, bill) for ref in refs],
    }
    return without_empty(found) or None


def _group(group: FileGroup) -> dict[str, Any]:
    """Return files that are not listed one by one."""
    return {
        "type": "data",
        "bom-ref": f"files:{group.step}",
        "name": group.title,
        "properties": _properties(group.properties),
    }


def _file(file: OwnFile) -> dict[str, Any]:
    name = text_of(file.path)
    return without_empty(
        {
            "type": "file",
            "bom-ref": f"file:{name}",
            "name": f"/{name}",
            "hashes": _hashes(file.sha256),
            "properties": _properties(origin_properties(file.origin)),
        }
    )


def _hashes(hashes: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"alg": name, "content": value} for name, value in known_hashes(hashes, _HASHES)]


def _properties(properties: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in sorted(properties.items())]


# -- what belongs to what ---------------------------------------------------------------------------------


def _dependencies(bill: Bill) -> Iterator[dict[str, Any]]:
    """Yield what depends on what. What needs nothing has a row; files have none: nobody knows."""
    distro = [_DISTRO] if bill.inventory.distro.id else []
    yield {"ref": _IMAGE, "dependsOn": [*distro, *(row.ref for row in bill.rows)]}
    for ref in distro:
        yield {"ref": ref}
    for row in bill.rows:
        yield without_empty({"ref": row.ref, "dependsOn": list(row.depends)})


def _compositions(bill: Bill) -> Iterator[dict[str, Any]]:
    """Yield what is complete: the parts of the image, and what is known of their dependencies."""
    yield {"aggregate": "complete" if bill.inventory.complete else "incomplete", "assemblies": [_IMAGE]}
    managed = [row.ref for row in bill.rows if row.component.kind in _MANAGED]
    others = [row.ref for row in bill.rows if row.component.kind not in _MANAGED]
    for aggregate, refs in (("complete", managed), ("unknown", others)):
        if refs:
            yield {"aggregate": aggregate, "dependencies": refs}
