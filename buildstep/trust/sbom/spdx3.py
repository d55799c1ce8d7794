"""SPDX 3.0.1 as JSON-LD: profiles core, software and simpleLicensing.

Source: the SPDX specification 3.0.1, its model and the form of "Serialization in JSON-LD". All elements of a
document share one creation information, and are named below its namespace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from buildstep import __version__
from buildstep.trust.inventory.model import OwnFile
from buildstep.trust.sbom import spdx
from buildstep.trust.sbom.bill import (
    TOOL,
    UNNAMED,
    Bill,
    FileGroup,
    Row,
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

_CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
_CREATION = "_:creation"
_HASHES = {name: name for name in ("sha1", "sha256", "sha512", "md5")}


def write(bill: Bill) -> bytes:
    """Return the document of a bill."""
    return encoded({"@context": _CONTEXT, "@graph": list(_Graph(bill).elements())})


FORMAT = SbomFormat(
    about="SPDX 3.0.1",
    ending=".spdx3.json",
    media_type="application/spdx+json",
    predicate_type="https://spdx.dev/Document/v3",
    write=write,
)


class _Graph:
    """The elements of a document; their ids begin with its name."""

    def __init__(self, bill: Bill) -> None:
        self._bill = bill
        self._agents: dict[str, dict[str, Any]] = {}

    def _id(self, name: str) -> str:
        return f"{UNNAMED}#{name.removeprefix('SPDXRef-')}"

    def _element(self, type_: str, where: str, /, **members: Any) -> dict[str, Any]:
        head = {"type": type_, "spdxId": self._id(where), "creationInfo": _CREATION}
        return without_empty({**head, **members})

    def elements(self) -> Iterator[dict[str, Any]]:
        """Yield all elements, the document first."""
        parts = [*self._packages(), *self._files(), *self._licences()]
        parts += [self._agents[name] for name in sorted(self._agents)]
        yield from self._frame(parts)
        yield from parts
        yield from self._relationships()

    def _frame(self, parts: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        bill = self._bill
        note = "" if bill.created else "the image has no time of its own: SOURCE_DATE_EPOCH was not set"
        yield without_empty(
            {
                "type": "CreationInfo",
                "@id": _CREATION,
                "specVersion": "3.0.1",
                "created": bill.created or spdx.NO_TIME,
                "createdBy": [self._id("Agent")],
                "createdUsing": [self._id("Tool")],
                "comment": note,
            }
        )
        supplier = bill.inventory.supplier
        kind = "Organization" if supplier else "SoftwareAgent"
        yield self._element(kind, "Agent", name=supplier or f"{TOOL}-{__version__}")
        yield self._element("Tool", "Tool", name=f"{TOOL}-{__version__}")
        yield self._element(
            "SpdxDocument",
            "Document",
            name=bill.title,
            profileConformance=["core", "software", "simpleLicensing"],
            rootElement=[self._id("Sbom")],
        )
        yield self._element(
            "software_Sbom",
            "Sbom",
            name=bill.title,
            software_sbomType=[bill.phase],
            rootElement=[self._id(spdx.IMAGE)],
            element=[part["spdxId"] for part in parts],
        )

    def _agent(self, text: str) -> str:
        """Return the id of who supplies something, an element of its own; empty for nobody."""
        kind, name, mail = spdx.named_actor(text)
        if not name:
            return ""
        where = f"Agent-{ident(kind, name, mail)}"
        address = {"type": "ExternalIdentifier", "externalIdentifierType": "email", "identifier": mail}
        self._agents[where] = self._element(
            kind, where, name=name, externalIdentifier=[address] if mail else []
        )
        return self._id(where)

    # -- packages and files

    def _packages(self) -> Iterator[dict[str, Any]]:
        bill, given = self._bill, self._bill.inventory
        yield self._package(
            spdx.IMAGE, given.name, given.version, "container", purl=bill.purl, hashes=bill.hashes,
            suppliedBy=self._agent(given.supplier), description=given.description,
            comment=comment(bill.properties),
        )  # fmt: skip
        distro, base = given.distro, given.base
        if distro.id:
            yield self._package(
                spdx.DISTRO,
                distro.id,
                distro.version,
                "operatingSystem",
                cpe=bill.distro_cpe,
                suppliedBy=self._agent(distro.id),
                summary=distro.name,
            )
        if base is not None:
            digest = base.digest.removeprefix("sha256:")
            yield self._package(
                spdx.BASE, base.name or base.label, base.version, "container", purl=bill.base_purl,
                hashes={"sha256": digest} if digest else {}, comment=comment(bill.base_properties),
            )  # fmt: skip
        for row in bill.rows:
            yield self._component(row)
        for source in bill.sources:
            yield self._package(
                spdx.source_id(source), source.name, source.version, "source", purl=source.purl,
                suppliedBy=self._agent(source.supplier),
            )  # fmt: skip

    def _component(self, row: Row) -> dict[str, Any]:
        found = row.component
        said = [comment(row.properties), *(f"{TOOL}:location: {place}" for place in row.locations)]
        return self._package(
            spdx.package_id(row),
            found.name,
            found.version,
            "library",
            purl=found.purl,
            cpe=row.cpe,
            hashes=found.hashes,
            suppliedBy=self._agent(found.supplier),
            description=found.description,
            software_homePage=found.homepage if is_url(found.homepage) else "",
            software_copyrightText=found.copyright,
            comment="\n".join(said).strip(),
        )

    def _package(
        self,
        where: str,
        name: str,
        version: str,
        purpose: str,
        /,
        *,
        purl: str = "",
        cpe: str = "",
        hashes: Mapping[str, str] | None = None,
        **members: Any,
    ) -> dict[str, Any]:
        named = [("packageUrl", purl), ("cpe23", cpe)]
        return self._element(
            "software_Package",
            where,
            name=name,
            software_packageVersion=version,
            software_primaryPurpose=purpose,
            software_packageUrl=purl,
            externalIdentifier=[
                {"type": "ExternalIdentifier", "externalIdentifierType": kind, "identifier": value}
                for kind, value in named
                if value
            ],
            verifiedUsing=_hashes(hashes or {}),
            **members,
        )

    def _files(self) -> Iterator[dict[str, Any]]:
        for group in self._bill.groups:
            if not group.listed:
                yield self._group(group)
        for _, file in self._bill.listed:
            yield self._file(file)

    def _group(self, group: FileGroup) -> dict[str, Any]:
        """Return files that are not listed one by one."""
        said = comment(group.properties)
        return self._element("software_Package", spdx.group_id(group), name=group.title, comment=said)

    def _file(self, file: OwnFile) -> dict[str, Any]:
        return self._element(
            "software_File",
            spdx.file_id(file),
            name=f"./{text_of(file.path)}",
            verifiedUsing=_hashes(file.sha256),
            comment=comment(origin_properties(file.origin)),
        )

    # -- licences

    def _licences(self) -> Iterator[dict[str, Any]]:
        licenses = self._bill.licenses
        for expression in sorted({row.license for row in self._bill.rows if row.license}):
            refs = [
                {"type": "DictionaryEntry", "key": ref, "value": self._id(ref)}
                for ref in licenses.refs(expression)
            ]
            yield self._element(
                "simplelicensing_LicenseExpression",
                _expression_id(expression),
                simplelicensing_licenseExpression=expression,
                simplelicensing_customIdToUri=refs,
            )
        for ref, text in licenses.texts.items():
            yield self._element(
                "simplelicensing_SimpleLicensingText",
                ref,
                name=ref.removeprefix("LicenseRef-"),
                simplelicensing_licenseText=text,
            )

    # -- relationships

    def _relationships(self) -> Iterator[dict[str, Any]]:
        bill, given = self._bill, self._bill.inventory
        contained = [spdx.DISTRO] if given.distro.id else []
        contained += [spdx.package_id(row) for row in bill.rows]
        contained += [spdx.group_id(group) for group in bill.groups if not group.listed]
        contained += [spdx.file_id(file) for _, file in bill.listed]
        whole = "complete" if given.complete else "incomplete"
        if contained:
            yield self._related(spdx.IMAGE, "contains", contained, whole)
        if given.base is not None:
            yield self._related(spdx.IMAGE, "descendantOf", [spdx.BASE])
        ids = {row.ref: spdx.package_id(row) for row in bill.rows}
        made: dict[str, list[str]] = {}
        for row in bill.rows:
            if row.depends:
                yield self._related(ids[row.ref], "dependsOn", [ids[it] for it in row.depends])
            if row.license:
                yield self._related(ids[row.ref], "hasDeclaredLicense", [_expression_id(row.license)])
            if row.source is not None:
                made.setdefault(spdx.source_id(row.source), []).append(ids[row.ref])
        for source, packages in sorted(made.items()):
            yield self._related(source, "generates", packages)

    def _related(self, one: str, how: str, others: Sequence[str], completeness: str = "") -> dict[str, Any]:
        return self._element(
            "Relationship",
            f"Relationship-{ident(how, one.removeprefix('SPDXRef-'))}",
            **{"from": self._id(one)},
            relationshipType=how,
            to=[self._id(other) for other in others],
            completeness=completeness,
        )


def _hashes(hashes: Mapping[str, str]) -> list[dict[str, str]]:
    return [
        {"type": "Hash", "algorithm": name, "hashValue": value}
        for name, value in known_hashes(hashes, _HASHES)
    ]


def _expression_id(expression: str) -> str:
    return f"License-{ident('expression', '', expression)}"
