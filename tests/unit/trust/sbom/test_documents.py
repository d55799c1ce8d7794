"""Documents of an inventory: what must be in each, and the same bytes for the same inventory."""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import replace
from typing import Any

import pytest

from buildstep.errors import UsageError
from buildstep.trust import sbom
from buildstep.trust.inventory import listing
from buildstep.trust.inventory.model import Base, Inventory
from tests.unit.trust.inventories import EVERYTHING, LIBC, NGINX, WEB


def document(name: str, inventory: Inventory = EVERYTHING) -> Any:
    return json.loads(sbom.write(name, inventory))


@pytest.fixture
def spdx() -> Any:
    return document("spdx")


@pytest.fixture
def cyclonedx() -> Any:
    return document("cyclonedx")


@pytest.fixture
def graph() -> list[Any]:
    found: list[Any] = document("spdx3")["@graph"]
    return found


def named(rows: list[Any], name: str) -> Any:
    """The one with this name that is no source package."""
    (found,) = [
        row for row in rows if row.get("name") == name and row.get("primaryPackagePurpose") != "SOURCE"
    ]
    return found


def values(rows: list[Any]) -> dict[str, str]:
    return {row["name"]: row["value"] for row in rows}


# -- all formats ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sbom.FORMATS)
def test_the_order_of_an_inventory_does_not_matter(name: str) -> None:
    mixed = random.Random(7)
    components, files = list(EVERYTHING.components), list(EVERYTHING.files)
    expected = sbom.write(name, EVERYTHING)
    for _ in range(5):
        mixed.shuffle(components)
        mixed.shuffle(files)
        other = replace(EVERYTHING, components=tuple(components), files=tuple(files))
        assert sbom.write(name, other) == expected


@pytest.mark.parametrize("name", sbom.FORMATS)
def test_an_empty_image_has_a_document(name: str) -> None:
    assert json.loads(sbom.write(name, Inventory(name="empty")))


@pytest.mark.parametrize("name", sbom.FORMATS)
def test_what_names_a_document_follows_from_its_content(name: str) -> None:
    uuid = re.compile(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
    one, other = (
        sbom.write(name, EVERYTHING).decode(),
        sbom.write(name, replace(EVERYTHING, version="2")).decode(),
    )
    (first,), (second,) = set(uuid.findall(one)), set(uuid.findall(other))
    assert first != second


@pytest.mark.parametrize("name", sbom.FORMATS)
def test_of_too_many_files_those_of_the_largest_step_are_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EVERYTHING has two files of sync and one of the base."""
    monkeypatch.setattr(listing, "MOST_FILES", 2)
    text = sbom.write(name, EVERYTHING).decode()
    rows = b"".join(
        f"{file.hashes['sha256']}  ".encode() + file.path + b"\n"
        for file in sorted(EVERYTHING.files, key=lambda file: file.path)
        if file.origin.step == "sync"
    )
    assert "./etc/hosts" in text or '"/etc/hosts"' in text
    assert "srv/caf" not in text
    assert hashlib.sha256(rows).hexdigest() in text
    assert "files of sync that no package owns" in text


def test_an_unknown_format_is_told() -> None:
    with pytest.raises(UsageError) as caught:
        sbom.find("cyclone")
    assert caught.value.hint == "did you mean cyclonedx?"


# -- SPDX 2.3 ------------------------------------------------------------------------------------------------


def related(spdx: Any) -> set[tuple[str, str, str]]:
    names = {row["SPDXID"]: row.get("name") or row["fileName"] for row in [*spdx["packages"], *spdx["files"]]}
    names |= {"SPDXRef-DOCUMENT": "DOCUMENT", "NOASSERTION": "NOASSERTION"}
    return {
        (names[row["spdxElementId"]], row["relationshipType"], names[row["relatedSpdxElement"]])
        for row in spdx["relationships"]
    }


def test_ids_are_unique_and_sound(spdx: Any) -> None:
    ids = [row["SPDXID"] for row in [*spdx["packages"], *spdx["files"]]]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", name) for name in ids)


def test_relationships_tell_what_is_in_what_and_made_of_what(spdx: Any) -> None:
    rows = related(spdx)
    assert {
        ("DOCUMENT", "DESCRIBES", "hello"),
        ("hello", "DESCENDANT_OF", "debian"),
        ("hello", "CONTAINS", "libc6"),
        ("nginx", "DEPENDS_ON", "libc6"),
        ("libstdc++6", "GENERATED_FROM", "gcc-12"),
        ("libc6", "GENERATED_FROM", "glibc"),
        ("files of sync that no package owns", "CONTAINS", "./srv/caf\u00e9"),
        ("hello", "CONTAINS", "files of sync that no package owns"),
        ("hello", "CONTAINS", "NOASSERTION"),
    } <= rows
    assert [row for row in rows if row[1] == "DEPENDS_ON" and row[0] == "nginx"] == [
        ("nginx", "DEPENDS_ON", "libc6")
    ]


def test_a_package_tells_who_made_it_and_which_step_brought_it(spdx: Any) -> None:
    nginx = named(spdx["packages"], "nginx")
    assert nginx["supplier"] == "Person: A. Person [of Debian] (person@debian.org)"
    assert nginx["comment"] == "buildstep:layer: 1\nbuildstep:step: packages"
    assert nginx["checksums"] == [{"algorithm": "SHA256", "checksumValue": "ab" * 32}]
    assert "homepage" not in nginx
    assert nginx["externalRefs"][0]["referenceLocator"] == NGINX.purl
    libc = named(spdx["packages"], "libc6")
    assert libc["supplier"] == "Organization: GNU Libc Maintainers (debian-glibc@lists.debian.org)"
    assert (libc["licenseDeclared"], libc["licenseConcluded"]) == (LIBC.license.expression, "NOASSERTION")
    assert all(row["filesAnalyzed"] == row["name"].startswith("files of ") for row in spdx["packages"])


def test_two_texts_of_one_licence_name_are_two_licences(spdx: Any) -> None:
    texts = {row["licenseId"]: row["extractedText"] for row in spdx["hasExtractedLicensingInfos"]}
    nginx, libc = (named(spdx["packages"], name)["licenseDeclared"] for name in ("nginx", "libc6"))
    assert texts[nginx] == "Another text of that name."
    assert texts[libc.rpartition(" ")[2]] == "Do as you like."
    assert nginx != "LicenseRef-BSL"
    assert "LicenseRef-zlib-x" in texts


def test_every_file_has_both_digests_and_its_step(spdx: Any) -> None:
    for row in spdx["files"]:
        assert [it["algorithm"] for it in row["checksums"]] == ["SHA1", "SHA256"]
        assert "buildstep:step: " in row["comment"]
    assert './srv/\\xff\n"bad' in [row["fileName"] for row in spdx["files"]]


def test_without_a_time_of_the_image_there_is_none(spdx: Any) -> None:
    assert spdx["creationInfo"]["created"] == "2026-09-21T14:13:20Z"
    timeless = replace(EVERYTHING, created=None)
    creation = document("spdx", timeless)["creationInfo"]
    assert creation["created"] == "1970-01-01T00:00:00Z"
    assert "SOURCE_DATE_EPOCH was not set" in creation["comment"]
    assert "timestamp" not in document("cyclonedx", timeless)["metadata"]


# -- CycloneDX -----------------------------------------------------------------------------------------------


def test_the_operating_system_is_a_component(cyclonedx: Any) -> None:
    assert {
        "type": "operating-system", "bom-ref": "operating-system", "name": "debian", "version": "12",
        "description": "Debian GNU/Linux 12 (bookworm)", "cpe": "cpe:2.3:o:debian:debian_linux:12:*:*:*:*:*:*:*",
    } in cyclonedx["components"]  # fmt: skip


def test_the_image_descends_from_its_base_and_says_what_it_is(cyclonedx: Any) -> None:
    image = cyclonedx["metadata"]["component"]
    assert image["purl"] == f"pkg:oci/hello@sha256:{'12' * 32}"
    assert image["pedigree"]["ancestors"][0]["purl"] == f"pkg:oci/debian@sha256:{'cd' * 32}"
    said = values(image["properties"])
    assert said["buildstep:digest:tree"] == "34" * 32
    assert said["buildstep:layer:1"] == f"sha256:{'78' * 32}"
    assert said["buildstep:unknown:1"] == "var/lib/rpm: no rpm here"
    assert cyclonedx["metadata"]["lifecycles"] == [{"phase": "build"}]
    looked_at = document("cyclonedx", replace(EVERYTHING, known_from="image"))
    assert looked_at["metadata"]["lifecycles"] == [{"phase": "post-build"}]


def test_every_component_has_its_dependencies_told(cyclonedx: Any) -> None:
    rows = {row["ref"]: row.get("dependsOn", []) for row in cyclonedx["dependencies"]}
    refs = [row["bom-ref"] for row in cyclonedx["components"]]
    assert len(refs) == len(set(refs))
    assert rows.keys() == {"image", *(ref for ref in refs if not ref.startswith("file:"))}
    assert rows[NGINX.ref] == [LIBC.ref]
    assert rows[LIBC.ref] == []
    assert cyclonedx["compositions"][0] == {"aggregate": "incomplete", "assemblies": ["image"]}


def test_a_package_in_two_places_is_one_component(cyclonedx: Any) -> None:
    web = named(cyclonedx["components"], "web")
    assert (web["group"], web["purl"]) == ("@scope", WEB.purl)
    assert [row["location"] for row in web["evidence"]["occurrences"]] == [
        "srv/node_modules/@scope/web/package.json",
        "srv/other/node_modules/@scope/web/package.json",
    ]


def test_places_that_an_inventory_has_gathered_are_all_told() -> None:
    web = replace(WEB, others=(b"z/package.json", b"a/package.json"))
    found = document("cyclonedx", replace(EVERYTHING, components=(web,)))
    assert [row["location"] for row in named(found["components"], "web")["evidence"]["occurrences"]] == [
        "a/package.json",
        "srv/node_modules/@scope/web/package.json",
        "z/package.json",
    ]


def test_licences_are_declared_expressions_or_a_text(cyclonedx: Any) -> None:
    assert named(cyclonedx["components"], "libc6")["licenses"] == [
        {"expression": LIBC.license.expression, "acknowledgement": "declared"}
    ]
    (text,) = named(cyclonedx["components"], "libc6")["evidence"]["licenses"]
    assert (text["license"]["name"], text["license"]["text"]["content"]) == (
        "LicenseRef-BSL",
        "Do as you like.",
    )
    (only,) = named(cyclonedx["components"], "nginx")["licenses"]
    assert only["license"]["text"]["content"] == "Another text of that name."


def test_properties_of_a_package_are_ours_and_the_cpe_has_its_field(cyclonedx: Any) -> None:
    zlib = named(cyclonedx["components"], "zlib")
    assert values(zlib["properties"]) == {"buildstep:PKGPATH": "devel/zlib"}
    assert zlib["cpe"].startswith("cpe:2.3:a:zlib:")


# -- SPDX 3 --------------------------------------------------------------------------------------------------


def test_all_elements_are_named_once_and_all_names_lead_to_one(graph: list[Any]) -> None:
    ids = [row["spdxId"] for row in graph if "spdxId" in row]
    assert len(ids) == len(set(ids))
    for row in graph:
        if row["type"] == "Relationship":
            assert {row["from"], *row["to"]} <= set(ids)
        for entry in row.get("simplelicensing_customIdToUri", ()):
            assert entry["value"] in ids


def test_sources_generate_packages(graph: list[Any]) -> None:
    names = {row["spdxId"]: row["name"] for row in graph if "name" in row}
    rows = {
        (names[row["from"]], row["relationshipType"], tuple(names[it] for it in row["to"]))
        for row in graph
        if row.get("relationshipType") in ("generates", "dependsOn", "descendantOf")
    }
    assert ("gcc-12", "generates", ("libstdc++6",)) in rows
    assert ("hello", "descendantOf", ("debian",)) in rows
    assert ("nginx", "dependsOn", ("libc6",)) in rows


def test_a_base_that_is_known_by_its_label_alone_has_it_for_a_name() -> None:
    inventory = replace(EVERYTHING, base=Base(label="mmdebstrap:bookworm"))
    assert named(document("spdx3", inventory)["@graph"], "mmdebstrap:bookworm")
    assert named(document("spdx", inventory)["packages"], "mmdebstrap:bookworm")
