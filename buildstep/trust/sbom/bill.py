"""An inventory made ready to be written: ids, edges, licences and times, the same in every format."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from buildstep.trust.inventory.listing import unlisted
from buildstep.trust.inventory.model import Component, Inventory, Origin, OwnFile
from buildstep.trust.purl import image_purl, source_purl
from buildstep.trust.sbom.licenses import Licenses

TOOL = "buildstep"
_NAMESPACE = uuid.UUID("c9e4a6a1-0a4e-5d57-8f3e-1f2b7d7c4b60")
"""Documents are named by UUIDs in here."""

_PLAIN = re.compile(r"[A-Za-z0-9._-]+")
_CPE = re.compile(r"cpe:2\.3:[aho](:([A-Za-z0-9._-]|\\[^\sA-Za-z0-9])+|:\*){10}")
"""A CPE name as validators take it: a formatted string of NISTIR 7695, with no wildcard inside a part."""
_URL = re.compile(r"https?://[A-Za-z0-9]+([-.][A-Za-z0-9]+)*\.[A-Za-z]{2,}(:[0-9]{1,5})?(/[!-~]*)?")
_NOT_IN_URL = frozenset('<>"{}|\\^`')
_UNFIT = re.compile(r"[^A-Za-z0-9.-]+")
_CPE_OF = {
    "debian": "debian:debian_linux", "ubuntu": "canonical:ubuntu_linux", "alpine": "alpinelinux:alpine_linux",
    "fedora": "fedoraproject:fedora", "rocky": "rocky:rocky", "almalinux": "almalinux:almalinux",
    "centos": "centos:centos", "rhel": "redhat:enterprise_linux",
}  # fmt: skip
"""Vendor and product of operating systems in the CPE dictionary, by the ID of os-release."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePackage:
    """A source package, which vulnerabilities are told of. supplier: of what is built from it."""

    kind: str
    name: str
    version: str
    purl: str
    supplier: str = ""

    @property
    def ref(self) -> str:
        return self.purl or f"source:{self.kind}:{self.name}@{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A component as documents have it. locations: of all places where it was found; license: its expression
    in this document; depends: refs of components that are there; cpe: empty where nobody said it."""

    component: Component
    ref: str
    license: str
    depends: tuple[str, ...]
    locations: tuple[str, ...]
    source: SourcePackage | None
    properties: Mapping[str, str]

    @property
    def cpe(self) -> str:
        said = self.component.properties.get("cpe", "")
        return said if _CPE.fullmatch(said) else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileGroup:
    """Files that no package owns, brought by one step; step: empty where that is not known; listed: whether
    they are in the document one by one."""

    step: str
    files: tuple[OwnFile, ...]
    listed: bool = True

    @property
    def title(self) -> str:
        return f"files of {self.step or 'the image'} that no package owns"

    @property
    def verification_code(self) -> str:
        """The package verification code of SPDX 2.3, 7.9: a SHA-1 over the sorted SHA-1s; only of files that
        are listed."""
        ordered = sorted(file.hashes.get("sha1", "") for file in self.files)
        return hashlib.sha1("".join(ordered).encode(), usedforsecurity=False).hexdigest()

    @property
    def properties(self) -> Mapping[str, str]:
        """What is said of files that are not listed: how many they are, and the SHA-256 of what sha256sum(1)
        prints of them, in the order of their paths."""
        if self.listed:
            return {}
        rows = (b"%s  %s\n" % (file.hashes.get("sha256", "").encode(), file.path) for file in self.files)
        return {
            f"{TOOL}:files": str(len(self.files)),
            f"{TOOL}:bytes": str(sum(file.size for file in self.files)),
            f"{TOOL}:sha256sums": hashlib.sha256(b"".join(rows)).hexdigest(),
            **origin_properties(Origin(step=self.step)),
        }


class Bill:
    """An inventory, with what every format needs of it."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.licenses = Licenses()

    @property
    def title(self) -> str:
        """The name of the document, and of files that hold it."""
        given = self.inventory
        return f"{given.name}-{given.version}" if given.version else given.name

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """All components, sorted by ref; those with one ref are one row."""
        return tuple(self._rows())

    def _rows(self) -> Iterator[Row]:
        grouped: dict[str, list[Component]] = {}
        for component in self.inventory.components:
            grouped.setdefault(component.ref, []).append(component)
        for ref in sorted(grouped):
            same = sorted(grouped[ref], key=lambda it: it.location)
            first = same[0]
            depends = {it for one in same for it in one.depends if it in grouped and it != ref}
            places = {it for one in same for it in (one.location, *one.others) if it}
            yield Row(
                component=first,
                ref=ref,
                license=self.licenses.expression(first.license),
                depends=tuple(sorted(depends)),
                locations=tuple(sorted(map(text_of, places))),
                source=_source(first),
                properties={**origin_properties(first.origin), **_named(first.properties)},
            )

    @cached_property
    def sources(self) -> tuple[SourcePackage, ...]:
        """The source packages of all components, each once, sorted by ref."""
        found = {row.source.ref: row.source for row in self.rows if row.source is not None}
        return tuple(found[ref] for ref in sorted(found))

    @cached_property
    def groups(self) -> tuple[FileGroup, ...]:
        """The files that no package owns, by the step that brought them."""
        steps: dict[str, list[OwnFile]] = {}
        for file in self.inventory.files:
            steps.setdefault(file.origin.step, []).append(file)
        whole = unlisted({step: len(files) for step, files in steps.items()})
        return tuple(
            FileGroup(
                step=step,
                files=tuple(sorted(steps[step], key=lambda it: it.path)),
                listed=step not in whole,
            )
            for step in sorted(steps)
        )

    @property
    def listed(self) -> Iterator[tuple[FileGroup, OwnFile]]:
        """The files that are in the document one by one, each with its group."""
        return ((group, file) for group in self.groups if group.listed for file in group.files)

    @property
    def purl(self) -> str:
        """The package URL of the image; empty where it has no digest that a registry would know."""
        return image_purl(self.inventory.name, self.inventory.digests.get("oci", ""))

    @property
    def base_purl(self) -> str:
        base = self.inventory.base
        return image_purl(base.name, base.digest) if base is not None else ""

    @property
    def hashes(self) -> Mapping[str, str]:
        """The SHA-256 of the image's manifest, where it has one."""
        digest = self.inventory.digests.get("oci", "")
        return {"sha256": digest.removeprefix("sha256:")} if digest.startswith("sha256:") else {}

    @property
    def properties(self) -> Mapping[str, str]:
        """What is said of the image and has no field of its own in any format."""
        given = self.inventory
        found = {f"digest:{name}": value for name, value in given.digests.items()}
        found |= {f"layer:{number}": digest for number, digest in enumerate(given.layers)}
        found |= {f"unknown:{number}": text for number, text in enumerate(sorted(given.unknown), 1)}
        return _named(found)

    @property
    def base_properties(self) -> Mapping[str, str]:
        base = self.inventory.base
        if base is None:
            return {}
        found = {"label": base.label, "digest:oci": base.digest, "digest:tree": base.tree_digest}
        return _named({name: value for name, value in found.items() if value})

    @property
    def distro_cpe(self) -> str:
        """The CPE 2.3 name of the operating system; empty where the dictionary's is not known."""
        distro = self.inventory.distro
        product = _CPE_OF.get(distro.id)
        if product is None or not _PLAIN.fullmatch(distro.version):
            return ""
        return f"cpe:2.3:o:{product}:{distro.version.lower()}:*:*:*:*:*:*:*"

    @property
    def created(self) -> str:
        """The document's time, as both standards write it; empty where the image has none."""
        seconds = self.inventory.created
        return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def phase(self) -> str:
        """In words, what the document was made from."""
        return "build" if self.inventory.known_from == "build" else "analyzed"


def _source(component: Component) -> SourcePackage | None:
    if not component.source:
        return None
    version = component.source_version or component.version
    purl = source_purl(component.purl, component.source, version)
    return SourcePackage(
        kind=component.kind, name=component.source, version=version, purl=purl, supplier=component.supplier
    )


def _named(properties: Mapping[str, str]) -> dict[str, str]:
    """Return properties under names of ours; one that has a name space already keeps it."""
    found = {
        name if name.startswith(f"{TOOL}:") else f"{TOOL}:{name}": value
        for name, value in properties.items()
        if name != "cpe"
    }
    return dict(sorted(found.items()))


def origin_properties(origin: Origin) -> dict[str, str]:
    """Return where something came from as properties."""
    found = {f"{TOOL}:step": origin.step} if origin.step else {}
    return found if origin.layer is None else found | {f"{TOOL}:layer": str(origin.layer)}


def comment(properties: Mapping[str, str]) -> str:
    """Return properties as the text of a format that has no field for them: a line each."""
    return "\n".join(f"{name}: {value}" for name, value in sorted(properties.items()))


def text_of(path: bytes) -> str:
    """Return a path as text; bytes that are no UTF-8 as `\\xNN`."""
    return path.decode(errors="backslashreplace")


def ident(*words: str) -> str:
    """Return an id that says what it is of and is its own: what the words are, and a digest of them."""
    digest = hashlib.sha256("\0".join(words).encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{_UNFIT.sub('-', '-'.join(words[:2])).strip('-')[:80]}-{digest}"


UNNAMED = f"urn:uuid:{_NAMESPACE}"
"""What stands for the name of a document until all else of it is known."""


def encoded(document: Mapping[str, Any]) -> bytes:
    """Return a document as JSON, the same bytes for the same content. Where it has UNNAMED it gets its name:
    a UUID of version 5 (RFC 9562), by what is in it."""
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    name = uuid.uuid5(_NAMESPACE, hashlib.sha256(data).hexdigest())
    return data.replace(UNNAMED.encode(), f"urn:uuid:{name}".encode())


def is_url(text: str) -> bool:
    """Return whether a home page is an address that validators take: what packages say may be anything."""
    return _URL.fullmatch(text) is not None and _NOT_IN_URL.isdisjoint(text)


def without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object without the members that say nothing."""
    return {name: value for name, value in values.items() if value not in ("", None, [], {}, ())}


def known_hashes(hashes: Mapping[str, str], names: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Return the hashes that a format knows, by the names that it has for them, sorted."""
    return sorted((names[name], value) for name, value in hashes.items() if name in names)
