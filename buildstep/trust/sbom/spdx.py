"""SPDX 2.3 as JSON.

Source: the SPDX specification, branch support/2.3, chapters 6 to 11, and its JSON schema. Packages say
`filesAnalyzed: false`, but for those that stand for the files of a step, where these are listed: each has a
SHA-1, as clause 8.4 demands.
"""

from __future__ import annotations

import re
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
    SourcePackage,
    comment,
    encoded,
    ident,
    is_url,
    known_hashes,
    origin_properties,
    text_of,
    without_empty,
)
from buildstep.trust.sbom.interface import SbomFormat

NOTHING = "NOASSERTION"
NO_TIME = "1970-01-01T00:00:00Z"
"""The time of documents that have none: the field is mandatory, and a clock would make each one different."""

_HASHES = {"sha1": "SHA1", "sha256": "SHA256", "sha512": "SHA512", "md5": "MD5"}
_PERSON = re.compile(r"(?P<name>[^<>]*?)\s*<(?P<mail>[^<>]*)>.*", re.DOTALL)
_SEVERAL = re.compile(
    r"team|maint|group|project|developers|packag|committee|council|inc\b|gmbh|ltd|foundation|\.org|\.com",
    re.IGNORECASE,
)
"""By what the name of an organization is told from a person's."""

DOCUMENT, IMAGE, DISTRO, BASE = (f"SPDXRef-{name}" for name in ("DOCUMENT", "Image", "Distro", "Base"))


def write(bill: Bill) -> bytes:
    """Return the document of a bill."""
    packages = [_image(bill), *_around(bill)]
    packages += [_package(row) for row in bill.rows]
    packages += [_source(source) for source in bill.sources]
    packages += [_group(group, bill) for group in bill.groups]
    document: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": bill.title,
        "documentNamespace": UNNAMED,
        "creationInfo": _creation(bill),
        "packages": packages,
        "files": [_file(file) for _, file in bill.listed],
        "relationships": list(_relationships(bill)),
        "hasExtractedLicensingInfos": [
            {"licenseId": ref, "name": ref.removeprefix("LicenseRef-"), "extractedText": text}
            for ref, text in bill.licenses.texts.items()
        ],
    }
    return encoded({name: value for name, value in document.items() if value != []})


FORMAT = SbomFormat(
    about="SPDX 2.3",
    ending=".spdx.json",
    media_type="application/spdx+json",
    predicate_type="https://spdx.dev/Document",
    write=write,
)


def _creation(bill: Bill) -> dict[str, Any]:
    note = f"SBOM type: {bill.phase}"
    if not bill.created:
        note += "; the image has no time of its own, so the document has none: SOURCE_DATE_EPOCH was not set"
    return {
        "created": bill.created or NO_TIME,
        "creators": [f"Tool: {TOOL}-{__version__}", *_creator(bill.inventory.supplier)],
        "comment": note,
    }


def _creator(supplier: str) -> list[str]:
    said = actor(supplier)
    return [said] if said != NOTHING else []


# -- packages ---------------------------------------------------------------------------------------------


def _image(bill: Bill) -> dict[str, Any]:
    given = bill.inventory
    return without_empty(
        {
            **_common(IMAGE, given.name, given.version, "CONTAINER"),
            "supplier": actor(given.supplier),
            "description": given.description,
            "checksums": _checksums(bill.hashes),
            "externalRefs": _refs(bill.purl, ""),
            "comment": comment(bill.properties),
        }
    )


def _around(bill: Bill) -> Iterator[dict[str, Any]]:
    """Yield what the image stands on: its operating system and its base image."""
    distro, base = bill.inventory.distro, bill.inventory.base
    if distro.id:
        yield without_empty(
            {
                **_common(DISTRO, distro.id, distro.version, "OPERATING_SYSTEM"),
                "supplier": actor(distro.id),
                "summary": distro.name,
                "externalRefs": _refs("", bill.distro_cpe),
            }
        )
    if base is not None:
        digest = base.digest.removeprefix("sha256:")
        yield without_empty(
            {
                **_common(BASE, base.name or base.label, base.version, "CONTAINER"),
                "supplier": NOTHING,
                "checksums": _checksums({"sha256": digest} if digest else {}),
                "externalRefs": _refs(bill.base_purl, ""),
                "comment": comment(bill.base_properties),
            }
        )


def _package(row: Row) -> dict[str, Any]:
    found = row.component
    said = comment(row.properties)
    if row.locations:
        said = "\n".join([said, *(f"{TOOL}:location: {place}" for place in row.locations)]).strip()
    return without_empty(
        {
            **_common(package_id(row), found.name, found.version, "LIBRARY"),
            "supplier": actor(found.supplier),
            "homepage": found.homepage if is_url(found.homepage) else "",
            "description": found.description,
            "checksums": _checksums(found.hashes),
            "licenseDeclared": row.license or NOTHING,
            "copyrightText": found.copyright or NOTHING,
            "sourceInfo": f"built from {row.source.name} {row.source.version}".strip() if row.source else "",
            "externalRefs": _refs(found.purl, row.cpe),
            "comment": said,
        }
    )


def _source(source: SourcePackage) -> dict[str, Any]:
    return without_empty(
        {
            **_common(source_id(source), source.name, source.version, "SOURCE"),
            "supplier": actor(source.supplier),
            "externalRefs": _refs(source.purl, ""),
        }
    )


def _group(group: FileGroup, bill: Bill) -> dict[str, Any]:
    """Return files of an image as a package; what they are is told by the image's name and version."""
    given = bill.inventory
    code = {"packageVerificationCodeValue": group.verification_code} if group.listed else {}
    return without_empty(
        {
            **_common(group_id(group), group.title, given.version, "OTHER"),
            "supplier": actor(given.supplier),
            "filesAnalyzed": group.listed,
            "packageVerificationCode": code,
            "comment": comment(group.properties),
        }
    )


def _common(ident_: str, name: str, version: str, purpose: str) -> dict[str, Any]:
    return {
        "SPDXID": ident_,
        "name": name,
        **({"versionInfo": version} if version else {}),
        "downloadLocation": NOTHING,
        "filesAnalyzed": False,
        "licenseConcluded": NOTHING,
        "licenseDeclared": NOTHING,
        "copyrightText": NOTHING,
        "primaryPackagePurpose": purpose,
    }


def _file(file: OwnFile) -> dict[str, Any]:
    return without_empty(
        {
            "SPDXID": file_id(file),
            "fileName": f"./{text_of(file.path)}",
            "checksums": _checksums(file.hashes),
            "licenseConcluded": NOTHING,
            "licenseInfoInFiles": [NOTHING],
            "copyrightText": NOTHING,
            "comment": comment(origin_properties(file.origin)),
        }
    )


def _checksums(hashes: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"algorithm": name, "checksumValue": value} for name, value in known_hashes(hashes, _HASHES)]


def _refs(purl: str, cpe: str) -> list[dict[str, str]]:
    rows = [("PACKAGE-MANAGER", "purl", purl), ("SECURITY", "cpe23Type", cpe)]
    return [
        {"referenceCategory": category, "referenceType": type_, "referenceLocator": value}
        for category, type_, value in rows
        if value
    ]


def actor(text: str) -> str:
    """Return a supplier as SPDX writes it: `Organization: NAME (MAIL)`, or Person."""
    kind, name, mail = named_actor(text)
    return f"{kind}: {name}" + (f" ({mail})" if mail and mail != name else "") if name else NOTHING


def named_actor(text: str) -> tuple[str, str, str]:
    """Return what a supplier is, its name and its address; the name is empty where there is none."""
    found = _PERSON.fullmatch(text.strip())
    name = (found["name"] if found else text).strip().strip('"').replace("(", "[").replace(")", "]")
    mail = found["mail"].strip() if found else ""
    name, mail = " ".join(name.split()), mail if "@" in mail and " " not in mail else ""
    return "Organization" if not found or _SEVERAL.search(name) else "Person", name or mail, mail


# -- ids and relationships --------------------------------------------------------------------------------


def package_id(row: Row) -> str:
    return f"SPDXRef-{ident(row.component.kind, row.component.name, row.ref)}"


def source_id(source: SourcePackage) -> str:
    return f"SPDXRef-{ident('source', source.name, source.ref)}"


def group_id(group: FileGroup) -> str:
    return f"SPDXRef-{ident('files', group.step)}"


def file_id(file: OwnFile) -> str:
    name = text_of(file.path)
    return f"SPDXRef-{ident('file', name.rpartition('/')[2], name)}"


def _relationships(bill: Bill) -> Iterator[dict[str, str]]:
    yield _related(DOCUMENT, "DESCRIBES", IMAGE)
    if bill.inventory.base is not None:
        yield _related(IMAGE, "DESCENDANT_OF", BASE)
    if bill.inventory.distro.id:
        yield _related(IMAGE, "CONTAINS", DISTRO)
    ids = {row.ref: package_id(row) for row in bill.rows}
    for row in bill.rows:
        yield _related(IMAGE, "CONTAINS", ids[row.ref])
        for other in row.depends:
            yield _related(ids[row.ref], "DEPENDS_ON", ids[other])
        if row.source is not None:
            yield _related(ids[row.ref], "GENERATED_FROM", source_id(row.source))
    for group in bill.groups:
        yield _related(IMAGE, "CONTAINS", group_id(group))
    for group, file in bill.listed:
        yield _related(group_id(group), "CONTAINS", file_id(file))
    if not bill.inventory.complete:  # clause 11.1.2: what else there is was not found out
        yield _related(IMAGE, "CONTAINS", NOTHING)


def _related(one: str, how: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": how, "relatedSpdxElement": other}
