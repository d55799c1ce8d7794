"""What is known of an image: databases, matching, exceptions, statements of others, and the gate."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import os
import random
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from buildstep import cli
from buildstep.errors import NoDatabaseError, SpecError, UsageError, VulnerableError
from buildstep.trust.inventory.model import Component, Distro, Inventory
from buildstep.trust.vulnerabilities import (
    bill_subject,
    directory,
    exceptions,
    gate,
    predicate,
    ranges,
    render,
    vex,
)
from buildstep.trust.vulnerabilities.database import Database
from buildstep.trust.vulnerabilities.model import Advisory, Found, Gate, Result
from tests.unit.report.test_formats import sarif_schema
from tests.unit.trust.vulnerabilities import downloads

NOW = 1796000000.0
DEBIAN = Distro(id="debian", version="12", codename="bookworm", name="Debian GNU/Linux 12 (bookworm)")

Scan = Callable[..., Result]


def deb(name: str, version: str, source: str = "", source_version: str = "") -> Component:
    purl = f"pkg:deb/debian/{name}@{version}?arch=amd64&distro=debian-12"
    return Component(
        kind="deb", name=name, version=version, source=source, source_version=source_version, purl=purl
    )


def image(*components: Component, distro: Distro = DEBIAN, **more: Any) -> Inventory:
    return Inventory(name="web", version="1", distro=distro, components=components, **more)


ZLIB = deb("zlib1g", "1:1.2.13.dfsg-1", "zlib")
SSL = (
    deb("libssl3", "3.0.13-1~deb12u1", "openssl"),
    deb("openssl", "3.0.13-1~deb12u1"),
)
LIBC = deb("libc6", "2.36-9+deb12u7+b1", "glibc", "2.36-9+deb12u7")


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """Databases of all forms."""
    folder = tmp_path / "db"
    files = [
        downloads.tracker(tmp_path / "debian.json"), downloads.osv(tmp_path / "pypi.zip"),
        downloads.pkgsrc(tmp_path / "pkg-vulnerabilities"),
    ]  # fmt: skip
    directory.import_files(files, folder, updated=None, note=lambda _text: None)
    return folder


def scanned(inventory: Inventory, folder: Path, **limits: Any) -> Result:
    return gate.scan(inventory, gate.asked(folder, Gate(**limits)), now=NOW)


def told(result: Result) -> Mapping[str, tuple[str, str, str]]:
    return {
        found.id: (found.matter.name, found.advisory.state, found.advisory.fixed) for found in result.found
    }


def test_debs_are_looked_up_by_their_source_and_its_version(db: Path) -> None:
    result = scanned(image(ZLIB, *SSL, LIBC), db)
    assert told(result) == {
        "CVE-2023-45853": ("zlib", "wont-fix", ""),
        "CVE-2024-5535": ("openssl", "fixed", "3.0.14-1~deb12u1"),
        "CVE-2024-9143": ("openssl", "minor", ""),
        "CVE-2025-0001": ("openssl", "postponed", ""),
        "CVE-2019-1010022": ("glibc", "unimportant", ""),
        "CVE-2026-0002": ("glibc", "undetermined", ""),
        "CVE-2026-0003": ("glibc", "open", ""),
        "TEMP-0000000-4DA0A8": ("glibc", "open", ""),
    }
    assert result.matters == 3
    ssl = next(found for found in result.found if found.id == "CVE-2024-5535")
    assert ssl.matter.packages == ("libssl3", "openssl")
    assert [feed.name for feed in result.feeds] == ["debian-tracker"]
    assert result.found[0].id == "CVE-2026-0003", "the worst comes first"


def test_a_backport_of_the_repaired_version_is_not_affected(db: Path) -> None:
    assert told(scanned(image(deb("zlib1g", "1:1.3.dfsg-3.1~bpo12+1", "zlib")), db)) != {}
    assert told(scanned(image(deb("zlib1g", "1:1.3.dfsg-3.1+b1", "zlib")), db)) == {}


@pytest.mark.parametrize(
    ("limits", "counted"),
    [
        ({}, {"CVE-2024-5535", "CVE-2024-9143", "CVE-2025-0001", "CVE-2026-0003", "TEMP-0000000-4DA0A8"}),
        ({"fail": "high"}, {"CVE-2024-5535", "CVE-2026-0003"}),
        ({"fail": "high", "unknown": False}, {"CVE-2026-0003"}),
        ({"fail": "critical", "unknown": False}, set()),
        ({"fixed_only": True}, {"CVE-2024-5535"}),
        ({"fail": ""}, set()),
    ],
)
def test_the_gate_counts_what_it_was_told_to(db: Path, limits: Mapping[str, Any], counted: set[str]) -> None:
    """What Debian ignores, takes for unimportant, or has not determined fails nothing."""
    result = scanned(image(ZLIB, *SSL, LIBC), db, **limits)
    assert {found.id for found in result.counted(Gate(**limits))} == counted


def test_what_nobody_looks_after_counts_where_asked(db: Path) -> None:
    result = scanned(image(deb("libwebkit", "2.40-1", "webkit2gtk")), db)
    assert told(result) == {"CVE-2026-0004": ("webkit2gtk", "end-of-life", "")}
    assert not result.counted(Gate())
    assert result.counted(Gate(eol=True))


def test_one_vulnerability_of_several_records_is_one_finding(db: Path) -> None:
    result = scanned(image(ZLIB, Component(kind="pypi", name="Requests", version="2.30.0")), db)
    found = next(row for row in result.found if row.matter.kind == "pypi")
    assert (found.id, found.advisory.aliases) == ("CVE-2023-32681", ("GHSA-j8r2-6x86-q33q", "PYSEC-2023-74"))
    assert (found.advisory.severity, found.advisory.fixed) == ("critical", "2.31.0")
    fine = scanned(image(ZLIB, Component(kind="pypi", name="requests", version="2.31.0")), db)
    assert [row.matter.kind for row in fine.found] == ["deb"]


def test_packages_of_each_ecosystem_are_looked_up_by_its_rules(tmp_path: Path) -> None:
    rows = {
        "Go": ("github.com/BurntSushi/toml", "v1.2.0", "1.2.1"), "npm": ("@scope/left", "1.0.0-rc.1", "1.0.0"),
        "crates.io": ("rustix", "0.35.1", "0.35.15"), "Alpine:v3.19": ("openssl", "3.1.4-r2", "3.1.4-r5"),
    }  # fmt: skip
    for ecosystem, (name, _, fixed) in rows.items():
        events = [{"introduced": "0"}, {"fixed": fixed}]
        affected = downloads.affected(ecosystem, name, *events, kind="SEMVER")
        path = downloads.osv(tmp_path / f"{ecosystem}.zip", [downloads.record(f"X-{ecosystem}", affected)])
        directory.import_files([path], tmp_path / "db", updated=None, note=lambda _text: None)
    purls = [
        "pkg:golang/github.com/burntsushi/toml@v1.2.0", "pkg:npm/%40scope/left@1.0.0-rc.1", "pkg:cargo/rustix@0.35.1",
        "pkg:apk/alpine/libcrypto3@3.1.4-r2?distro=alpine-3.19.1&upstream=openssl",
    ]  # fmt: skip
    bill = {"bomFormat": "CycloneDX", "components": [{"name": "x", "purl": purl} for purl in purls]}
    (tmp_path / "bill.json").write_text(json.dumps(bill))
    result = scanned(bill_subject.inventory_of(tmp_path / "bill.json"), tmp_path / "db", complete=True)
    assert {row.id: (row.matter.version, row.advisory.fixed) for row in result.found} == {
        f"X-{ecosystem}": row[1:] for ecosystem, row in rows.items()
    }


def test_another_feed_only_says_how_bad_it_is(tmp_path: Path) -> None:
    records = [
        downloads.record(
            "DEBIAN-CVE-2024-5535", downloads.affected("Debian:12", "openssl", {"introduced": "0"}),
            upstream=["CVE-2024-5535"], severity=downloads.HIGH,
        ),
        downloads.record(
            "DEBIAN-CVE-2024-4741", downloads.affected("Debian:12", "openssl", {"introduced": "0"}),
            upstream=["CVE-2024-4741"], severity=downloads.HIGH,
        ),
    ]  # fmt: skip
    files = [downloads.tracker(tmp_path / "debian.json"), downloads.osv(tmp_path / "debian.zip", records)]
    directory.import_files(files, tmp_path / "db", updated=None, note=lambda _text: None)
    found = {row.id: row.advisory for row in scanned(image(*SSL), tmp_path / "db").found}
    assert (found["CVE-2024-5535"].severity, found["CVE-2024-5535"].score) == ("critical", "9.1")
    assert "CVE-2024-4741" not in found, "Debian's tracker says that this version is not affected"


def test_packages_of_pkgsrc_are_matched_by_patterns(db: Path) -> None:
    packages = [
        ("libxml2", "2.14.0"), ("apache", "2.4.60"), ("apache", "2.4.60nb1"), ("php74", "7.4.33"),
        ("php82", "8.2.1"), ("php82-xml", "8.2.1"), ("png", "1.2.3"), ("png", "1.2.30"), ("openssl", "3.0.10"),
    ]  # fmt: skip
    components = [Component(kind="pkgsrc", name=name, version=version) for name, version in packages]
    result = scanned(image(*components, distro=Distro(id="smartos")), db)
    assert [(row.matter.name, row.matter.version, row.advisory.state) for row in result.found] == [
        ("apache", "2.4.60", "fixed"), ("libxml2", "2.14.0", "fixed"), ("php74", "7.4.33", "end-of-life"),
        ("php82", "8.2.1", "end-of-life"), ("png", "1.2.3", "open"),
    ]  # fmt: skip


def test_no_database_and_none_for_this_system_are_no_success(db: Path, tmp_path: Path) -> None:
    with pytest.raises(NoDatabaseError, match="no database of vulnerabilities at"):
        scanned(image(ZLIB), tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoDatabaseError, match="no database of vulnerabilities in"):
        scanned(image(ZLIB), tmp_path / "empty")
    for distro in (
        Distro(id="debian", version="14", codename="forky"),
        Distro(id="fedora", version="39"),
        Distro(),
    ):
        with pytest.raises(NoDatabaseError, match="1 deb package of "):
            scanned(image(ZLIB, distro=distro), db)
    with pytest.raises(NoDatabaseError, match="1 rpm package of Debian"):
        scanned(image(ZLIB, Component(kind="rpm", name="x")), db)
    npm = image(ZLIB, Component(kind="npm", name="left-pad", version="1.0.0"))
    assert scanned(npm, db).uncovered == {"npm": 1}
    with pytest.raises(NoDatabaseError, match="1 npm package"):
        scanned(npm, db, complete=True)


def test_an_image_of_which_no_package_is_known_is_no_success(db: Path) -> None:
    for known in (
        image(),
        image(Component(kind="pypi", name="django", version="4.0")),
        image(distro=Distro(), unknown=("RPM's database is in the form of Berkeley DB",), complete=False),
    ):
        with pytest.raises(NoDatabaseError, match="is known, so none can be looked up"):
            scanned(known, db)
    assert "no package was looked up" in scanned(image(distro=Distro()), db).notes[0]
    damaged = image(ZLIB, unknown=("a package has no name",), complete=False)
    assert scanned(damaged, db).notes == ("a package has no name",)
    with pytest.raises(NoDatabaseError, match="not all packages of web are known") as raised:
        scanned(damaged, db, complete=True)
    assert raised.value.detail == "a package has no name"


def test_a_database_that_is_too_old_fails_where_asked(tmp_path: Path) -> None:
    path = downloads.tracker(tmp_path / "debian.json")
    for age, ok in ((9, True), (11, False), (-3, False)):
        os.utime(path, (NOW - age * 86400,) * 2)
        directory.import_files([path], tmp_path / "db", updated=None, note=lambda _text: None)
        notes = "".join(render.notes(scanned(image(ZLIB), tmp_path / "db")))
        assert ("days old" in notes, "still to come" in notes) == (age > 7, age < 0)
        if ok:
            scanned(image(ZLIB), tmp_path / "db", max_age=10)
        else:
            with pytest.raises(NoDatabaseError, match="debian-tracker is"):
                scanned(image(ZLIB), tmp_path / "db", max_age=10)
    directory.import_files([path], tmp_path / "db", updated=NOW, note=lambda _text: None)
    assert scanned(image(ZLIB), tmp_path / "db", max_age=1).feeds[0].dated == "given"


def test_a_download_is_used_as_it_is_until_a_database_is_made_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "db"
    folder.mkdir()
    path = downloads.tracker(folder / "debian.json")
    result = scanned(image(ZLIB, *SSL), folder)
    assert "read whole each time" in result.notes[0]
    directory.import_files([path], folder, updated=None, note=lambda _text: None)
    made = scanned(image(ZLIB, *SSL), folder)
    assert (made.found, made.notes, made.feeds) == (result.found, (), result.feeds)
    downloads.tracker(path, {"zlib": {}})
    os.utime(path, (NOW * 2,) * 2)
    with pytest.raises(NoDatabaseError):  # the newer download counts, and knows of no release
        scanned(image(ZLIB), folder)
    assert told(scanned(image(*SSL), tmp_path / "db/debian-tracker.vulndb")), (
        "a file in place of the directory"
    )


def test_databases_that_are_damaged_are_told(db: Path, tmp_path: Path) -> None:
    path = db / "debian-tracker.vulndb"
    whole = path.read_bytes()
    for data in (b"", b"x" * 5000, whole[:2000], whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(NoDatabaseError, match=r"debian-tracker\.vulndb cannot be read"):
            scanned(image(ZLIB, *SSL), db)
    path.write_bytes(whole)
    good = scanned(image(ZLIB, *SSL, LIBC), db)
    for change in (
        "update packages set data = cast(substr(data, 1, 30) || x'00' as blob)", "delete from packages",
        "update packages set bucket = bucket + 1000", "update feed set data = 'x'", "delete from feed",
        "pragma user_version = 99", "drop table packages",
    ):  # fmt: skip
        path.write_bytes(whole)
        with contextlib.closing(sqlite3.connect(path)) as file:
            file.execute(change)
            file.commit()
        with pytest.raises(NoDatabaseError, match=r"debian-tracker\.vulndb cannot be read"):
            scanned(image(ZLIB, *SSL, LIBC), db)
    dice = random.Random(1)
    for _ in range(400):
        at = dice.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << dice.randrange(8)]) + whole[at + 1 :])
        with contextlib.suppress(NoDatabaseError):
            assert scanned(image(ZLIB, *SSL, LIBC), db).found == good.found, at


def packed(path: Path) -> Path:
    path.write_bytes(gzip.compress(downloads.tracker(path).read_bytes()))
    return path


@given(
    st.integers(0, 10**6),
    st.binary(max_size=6),
    st.sampled_from(["debian.json", "debian.gz", "pypi.zip", "list", "bookworm"]),
)
def test_downloads_that_are_damaged_are_refused_or_read(at: int, piece: bytes, name: str) -> None:
    """Whatever a download holds, it is read or refused, and ends nothing else."""
    make: dict[str, Callable[[Path], Path]] = {
        "debian.json": downloads.tracker, "pypi.zip": downloads.osv, "list": downloads.pkgsrc,
        "bookworm": downloads.debsecan, "debian.gz": packed,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as top:
        path = make[name](Path(top) / name)
        data = path.read_bytes()
        at %= len(data)
        path.write_bytes(data[:at] + piece + data[at + max(1, len(piece)) :])
        with contextlib.suppress(UsageError):
            directory.import_files([path], Path(top) / "db", updated=None, note=lambda _text: None)


def test_a_new_import_takes_the_place_of_the_old_one_whole(db: Path, tmp_path: Path) -> None:
    path = downloads.tracker(tmp_path / "debian.json", {"zlib": downloads.TRACKER["zlib"], "openssl": {}})
    with Database(db / "debian-tracker.vulndb") as old:
        made = directory.import_files([path], db, updated=None, note=lambda _text: None)
        assert (made[0].rows, old.feed.rows) == (2, 14)
        assert old.find([("debian/bookworm", "openssl")]), "whoever has it open goes on"
    assert sorted(file.name for file in db.iterdir()) == [
        "debian-tracker.vulndb", "osv-PyPI.vulndb", "pkgsrc.vulndb",
    ]  # fmt: skip
    bad = tmp_path / "bad.json"
    bad.write_text('{"zlib": {"CVE-1": {"releases": {}')
    before = (db / "debian-tracker.vulndb").read_bytes()
    with pytest.raises(UsageError):
        directory.import_files([path, bad], db, updated=None, note=lambda _text: None)
    assert (db / "debian-tracker.vulndb").read_bytes()[:100] == before[:100]
    (tmp_path / "notes").write_text("hello")
    with pytest.raises(UsageError, match="none of the forms"):
        directory.import_files([tmp_path / "notes"], db, updated=None, note=lambda _text: None)
    with pytest.raises(UsageError, match="none of the forms"):
        directory.import_files([tmp_path / "nothing" / "there"], db, updated=None, note=lambda _text: None)


def test_a_version_without_a_place_is_told_and_not_silently_fine(db: Path) -> None:
    result = scanned(image(ZLIB, Component(kind="pypi", name="requests", version="latest")), db)
    assert [row.advisory.state for row in result.found if row.matter.kind == "pypi"] == ["undetermined"]
    assert "requests latest" in result.notes[-1]


# -- exceptions --------------------------------------------------------------------------------------------

EXCEPTIONS = """
format = 1
[[exception]]
id = "CVE-2024-5535"
package = "libssl*"
until = 2026-11-29
reason = "no TLS is spoken"
justification = "vulnerable_code_not_in_execute_path"
[[exception]]
id = "CVE-2024-9143"
package = "openssl"
until = 2026-11-28
reason = "next sprint"
[[exception]]
id = "CVE-2024-9143"
package = "nothing"
until = 2030-01-01
reason = "gone"
"""


def test_exceptions_count_until_their_last_day(db: Path, tmp_path: Path) -> None:
    """NOW is in the night to the 30th of November 2026."""
    (tmp_path / "accepted.toml").write_text(EXCEPTIONS.replace("11-29", "11-30"))
    asked = gate.asked(db, Gate(), exception_files=[tmp_path / "accepted.toml"])
    result = gate.scan(image(*SSL), asked, now=NOW)
    found = {row.id: row for row in result.found}
    assert (found["CVE-2024-5535"].ruling, found["CVE-2024-5535"].until) == ("exception", date(2026, 11, 30))
    assert (found["CVE-2024-9143"].ruling, found["CVE-2024-9143"].expired) == ("", date(2026, 11, 28))
    assert {row.id for row in result.counted(Gate())} == {"CVE-2024-9143", "CVE-2025-0001"}
    assert result.unused == ("CVE-2024-9143 in nothing",)
    with pytest.raises(VulnerableError, match="2 known vulnerabilities fail the gate") as raised:
        gate.demand(result, Gate())
    assert "its exception ended on 2026-11-28" in raised.value.detail


def test_every_fault_of_a_file_of_exceptions_is_told(tmp_path: Path) -> None:
    path = tmp_path / "accepted.toml"
    path.write_text(
        'format = 2\nx = 1\n[[exception]]\nid = ""\nuntil = "soon"\njustification = "because"\nwho = 1\n'
    )
    with pytest.raises(SpecError) as raised:
        exceptions.load(path)
    assert sorted(fault.where for fault in raised.value.faults) == [
        "$.exception[0].id", "$.exception[0].justification", "$.exception[0].package", "$.exception[0].reason",
        "$.exception[0].until", "$.exception[0].who", "$.format", "$.x",
    ]  # fmt: skip
    row = '[[exception]]\nid = "a"\npackage = "b"\nreason = "c"\nuntil = 2099-01-01\n'
    for text in (
        "= no",
        "format = 1\nexception = [1]",
        f"format = 1\n{row}justification = [1]",
        f"format = 1\n{row}justification = false",
        "a = " + "[" * 100_000,
    ):
        path.write_text(text)
        with pytest.raises(SpecError, match="1 fault"):
            exceptions.load(path)
    with pytest.raises(UsageError, match="cannot read"):
        exceptions.load(tmp_path / "nothing")


def test_what_an_answer_depends_on_changes_with_days_and_databases(db: Path, tmp_path: Path) -> None:
    """A build looks up an image that stands again when this is another."""
    file = tmp_path / "accepted.toml"
    file.write_text(EXCEPTIONS)

    def at(days: float, **limits: Any) -> list[Any]:
        return gate.fingerprint(db, Gate(**limits), [file], [], now=NOW + days * 86400)

    os.utime(db / "pkgsrc.vulndb", (NOW, NOW))
    first = at(-1.5)
    assert first == at(-1.5)
    assert first != at(1), "an exception has ended"
    assert at(0, max_age=30) != at(100, max_age=30), "the databases are too old"
    assert at(0) == at(100), "nobody asked for their age"
    downloads.tracker(db / "debian.json")
    os.utime(db / "debian.json", (NOW, NOW))
    assert at(0, max_age=30) != at(29, max_age=30), "of a download, its age is not known without reading it"
    (db / "debian.json").unlink()
    os.utime(db / "pkgsrc.vulndb", (NOW + 1, NOW + 1))
    assert first != at(-1.5), "there is another database"
    file.unlink()
    assert at(0) != first, "whoever asks is told what is wrong"


# -- OpenVEX -----------------------------------------------------------------------------------------------


def statement(status: str, product: Any, **more: Any) -> dict[str, Any]:
    row = {"vulnerability": {"name": "CVE-2024-5535"}, "products": [product], "status": status, **more}
    return row | ({"justification": "vulnerable_code_not_present"} if status == "not_affected" else {})


def vexed(db: Path, tmp_path: Path, *rows: dict[str, Any], **more: Any) -> Found:
    document = {
        "@context": "https://openvex.dev/ns/v0.2.0", "@id": "https://example.org/1", "author": "The vendor",
        "timestamp": "2026-11-01T00:00:00Z", "version": 1, "statements": rows,
    }  # fmt: skip
    (tmp_path / "vex.json").write_text(json.dumps(document))
    asked = gate.asked(db, Gate(), vex_files=[tmp_path / "vex.json"])
    result = gate.scan(image(*SSL, **more), asked, now=NOW)
    return next(row for row in result.found if row.id == "CVE-2024-5535")


DIGEST = "sha256:" + "ab" * 32
FITTING = {
    "the package": {"@id": SSL[0].purl},
    "any version of it": {"@id": "pkg:deb/debian/libssl3"},
    "its source": {"@id": "pkg:deb/debian/openssl@3.0.13-1~deb12u1?arch=source"},
    "the image by digest": {"@id": f"pkg:oci/other@{DIGEST}?repository_url=reg.example.org/other"},
    "the image by name": {"@id": "pkg:oci/web"},
    "the image and the package": {"@id": "pkg:generic/web@1", "subcomponents": [{"@id": SSL[1].purl}]},
    "an identifier": {"@id": "https://example.org/p", "identifiers": {"purl": SSL[0].purl}},
}
OTHERS = {
    "another version": {"@id": "pkg:deb/debian/libssl3@3.0.12-1"},
    "another system": {"@id": "pkg:deb/debian/libssl3?distro=debian-13"},
    "another image": {"@id": "pkg:oci/web@sha256:" + "cd" * 32},
    "another package of it": {"@id": "pkg:oci/web", "subcomponents": [{"@id": "pkg:deb/debian/zlib1g"}]},
    "no package URL": {"@id": "openssl"},
    "a part of it without a package URL": {"@id": "pkg:oci/web", "subcomponents": [{"@id": "minizip"}]},
    "nothing": {"@id": ""},
}


@pytest.mark.parametrize("what", FITTING)
def test_statements_about_the_package_or_the_image_count(db: Path, tmp_path: Path, what: str) -> None:
    found = vexed(db, tmp_path, statement("not_affected", FITTING[what]), digests={"oci": DIGEST})
    assert (found.ruling, found.justification) == ("not_affected", "vulnerable_code_not_present")
    assert found.reason.startswith("The vendor: ")


@pytest.mark.parametrize("what", OTHERS)
def test_statements_about_something_else_do_not(db: Path, tmp_path: Path, what: str) -> None:
    assert vexed(db, tmp_path, statement("not_affected", OTHERS[what]), digests={"oci": DIGEST}).ruling == ""


def test_the_latest_statement_counts(db: Path, tmp_path: Path) -> None:
    product = FITTING["the package"]
    later = statement("affected", product, timestamp="2026-11-02T00:00:00Z", action_statement="update")
    assert vexed(db, tmp_path, statement("not_affected", product), later).ruling == ""
    assert (
        vexed(db, tmp_path, later, statement("fixed", product, timestamp="2026-11-03T00:00:00Z")).ruling
        == "fixed"
    )
    before = statement("affected", product, timestamp="2026-11-01T01:00:00+02:00", action_statement="update")
    assert vexed(db, tmp_path, before, statement("not_affected", product)).ruling == "not_affected"
    at_once = statement("affected", product, action_statement="update")
    assert vexed(db, tmp_path, statement("not_affected", product), at_once).ruling == ""
    assert vexed(db, tmp_path, statement("fixed", {"@id": "pkg:oci/x"}), digests={"oci": ""}).ruling == ""


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"@context": "https://openvex.dev/ns", "statements": 1}', '{"@context": "x", "statements": []}',
     '{"@context": "https://openvex.dev/ns", "statements": [{"vulnerability": {"name": "C"}, "status": "fine"}]}',
     '{"@context": "https://openvex.dev/ns", "statements": [{"vulnerability": {"name": "C"}, "status": "not_affected"}]}',
     '{"@context": "https://openvex.dev/ns", "statements": [{"vulnerability": 7, "status": "fixed"}]}',
     '{"@context": "https://openvex.dev/ns", "statements": [{"vulnerability": "C", "status": "fixed", "products": [7]}]}',
     '{"@context": "https://openvex.dev/ns", "statements": [7]}'],
)  # fmt: skip
def test_what_is_no_vex_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "vex.json").write_text(text)
    with pytest.raises(UsageError, match="no document of OpenVEX"):
        vex.load(tmp_path / "vex.json")


def test_what_we_say_as_vex_is_read_again(db: Path, tmp_path: Path) -> None:
    (tmp_path / "accepted.toml").write_text(EXCEPTIONS.replace("2026", "2027"))
    asked = gate.asked(db, Gate(), exception_files=[tmp_path / "accepted.toml"])
    result = gate.scan(image(ZLIB, *SSL, LIBC, digests={"oci": DIGEST}), asked, now=NOW)
    data = vex.document(result, now=NOW)
    assert data == vex.document(result, now=NOW)
    rows = {row["vulnerability"]["name"]: row for row in json.loads(data)["statements"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        "CVE-2023-45853": "affected",  # that Debian will not repair it makes nothing unaffected
        "CVE-2024-5535": "not_affected",
        "CVE-2024-9143": "affected",
        "CVE-2025-0001": "affected",
        "CVE-2019-1010022": "affected",
        "CVE-2026-0002": "under_investigation",
        "CVE-2026-0003": "affected",
        "TEMP-0000000-4DA0A8": "affected",
    }
    assert rows["CVE-2024-5535"]["justification"] == "vulnerable_code_not_in_execute_path"
    assert rows["CVE-2024-9143"]["action_statement"] == "accepted until 2027-11-28: next sprint"
    assert rows["CVE-2024-9143"]["products"][0]["@id"] == f"pkg:oci/web@{DIGEST}"
    (tmp_path / "vex.json").write_bytes(data)
    again = gate.scan(
        image(*SSL, digests={"oci": DIGEST}),
        gate.asked(db, Gate(), vex_files=[tmp_path / "vex.json"]),
        now=NOW,
    )
    assert {row.id for row in again.found if row.ruling} == {"CVE-2024-5535"}


# -- what is written ---------------------------------------------------------------------------------------


def test_the_predicate_has_what_the_form_demands(db: Path) -> None:
    result = scanned(image(*SSL), db)
    value = predicate.predicate(result, Gate())
    assert value["scanner"]["db"]["version"] == f"sha256:{result.feeds[0].digest}"
    assert value["metadata"]["scanStartedOn"].endswith("Z")
    row = next(row for row in value["scanner"]["result"] if row["id"] == "CVE-2024-9143")
    assert row["severity"] == [{"method": "Debian: no advisory of its own", "score": "low"}]
    assert {"counted": "yes"} in row["annotations"]
    assert json.loads(json.dumps(value)) == value


def test_results_are_written_for_people_and_machines(db: Path) -> None:
    result = scanned(image(ZLIB, *SSL), db)
    text = render.as_text(result, Gate())
    assert "CVE-2023-45853" not in text
    assert "not counted: 1 wont-fix" in text
    assert "wont-fix (does not count)" in render.as_text(result, Gate(), everything=True)
    value = json.loads(render.as_json(result, Gate()))
    assert (value["ok"], value["counted"], len(value["findings"])) == (False, 3, 4)
    log = json.loads(render.as_sarif(result, Gate()))
    jsonschema.Draft7Validator(sarif_schema()).validate(log)
    run = log["runs"][0]
    assert [run["tool"]["driver"]["rules"][row["ruleIndex"]]["id"] for row in run["results"]] == [
        row["ruleId"] for row in run["results"]
    ]
    evil = dataclasses.replace(result.found[0].matter, name="a\x1b[2Jb")
    shown = render.as_text(
        dataclasses.replace(result, found=(dataclasses.replace(result.found[1], matter=evil),)), Gate()
    )
    assert "\x1b" not in shown


def test_patterns_and_ranges() -> None:
    assert ranges.alternatives("{a,b{c,d}}-1{,2}") == ["a-1", "a-12", "bc-1", "bc-12", "bd-1", "bd-12"]
    for bad in ("{a", "{a,{b}", "x" * 2000):
        with pytest.raises(ValueError):
            ranges.alternatives(bad)
    assert ranges.alternatives("a}-1") == ["a}-1"]
    row = Advisory(
        id="X", order="semver", ranges=(
            (("introduced", "1.0.0"), ("fixed", "1.0.5"), ("introduced", "1.1.0"), ("last_affected", "1.1.9")),
            (("fixed", "3.0.1"), ("introduced", "3.0.0-rc.1"), ("limit", "3.0.0")),
        ),
    )  # fmt: skip
    affected = ["1.0.0", "1.0.4", "1.1.0", "1.1.9", "3.0.0-rc.1"]
    assert all(ranges.affects(row, "x", version) for version in affected)
    for version in ("0.9", "1.0.5", "1.0.9", "1.1.10", "3.0.0-alpha", "3.0.0", "3.0.1"):
        assert not ranges.affects(row, "x", version), version


# -- the command -------------------------------------------------------------------------------------------

BILL = {
    "bomFormat": "CycloneDX", "specVersion": "1.6",
    "metadata": {"component": {"type": "container", "name": "web", "version": "1"}},
    "components": [
        {"type": "library", "name": "zlib1g", "purl": "pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1?distro=debian-12&upstream=zlib"},
        {"type": "library", "name": "libssl3", "purl": "pkg:deb/debian/libssl3@3.0.13-1~deb12u1?distro=debian-12",
         "pedigree": {"ancestors": [{"purl": "pkg:deb/debian/openssl@3.0.13-1~deb12u1?arch=source"}]}},
        {"type": "library", "name": "openssl", "purl": "pkg:deb/debian/openssl@3.0.13-1~deb12u1?arch=source"},
    ],
}  # fmt: skip
SPDX = {
    "spdxVersion": "SPDX-2.3", "name": "web",
    "packages": [
        {"SPDXID": "SPDXRef-a", "name": "libssl3", "externalRefs": [
            {"referenceType": "purl", "referenceLocator": "pkg:deb/debian/libssl3@3.0.13-1~deb12u1?arch=amd64"}]},
        {"SPDXID": "SPDXRef-b", "name": "openssl", "externalRefs": [
            {"referenceType": "purl", "referenceLocator": "pkg:deb/debian/openssl@3.0.13-1~deb12u1?arch=source"}]},
        {"SPDXID": "SPDXRef-os", "name": "debian", "versionInfo": "12", "primaryPackagePurpose": "OPERATING_SYSTEM"},
    ],
    "relationships": [
        {"spdxElementId": "SPDXRef-a", "relationshipType": "GENERATED_FROM", "relatedSpdxElement": "SPDXRef-b"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("bill", [BILL, SPDX], ids=["cyclonedx", "spdx"])
def test_a_bill_of_materials_of_anybody_is_scanned(db: Path, tmp_path: Path, bill: Any) -> None:
    (tmp_path / "bill.json").write_text(json.dumps(bill))
    done = CliRunner().invoke(
        cli.root, ["scan", str(tmp_path / "bill.json"), "--db", str(db), "--json", "--fail", "none"]
    )
    assert done.exit_code == 0, done.output
    found = {row["id"]: row["installed"] for row in json.loads(done.stdout)["findings"]}
    assert found.get("CVE-2024-5535") == "3.0.13-1~deb12u1"
    assert ("CVE-2023-45853" in found) == (bill is BILL)


def test_a_bill_of_several_systems_is_told(db: Path, tmp_path: Path) -> None:
    purls = [ZLIB.purl, SSL[0].purl, "pkg:deb/debian/openssl@3?distro=debian-11", "pkg:pypi/django@4.0"]
    rows = [{"type": "library", "name": "x", "purl": purl} for purl in purls]
    path = tmp_path / "web.cdx.json"
    path.write_text(json.dumps({"bomFormat": "CycloneDX", "specVersion": "1.6", "components": rows}))
    read = bill_subject.inventory_of(path)
    assert "1 package of another system than most: looked up as of that" in read.unknown
    assert read.distro.version == "12"
    with pytest.raises(NoDatabaseError, match="not all packages"):
        scanned(read, db, complete=True)


def test_the_command_says_how_it_ended(db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bill = tmp_path / "web.cdx.json"
    bill.write_text(json.dumps(BILL))
    more = ["--db", str(db)]

    def run(*argv: str) -> int:
        return cli.main(["scan", *argv])

    assert (
        run(str(bill), *more, "-o", str(tmp_path / "out.json"), "--json", "--vex-out", str(tmp_path / "v"))
        == 35
    )
    assert json.loads((tmp_path / "out.json").read_text())["counted"] == 3
    assert vex.load(tmp_path / "v")
    assert "repaired in 3.0.14-1~deb12u1" in capsys.readouterr().err
    assert run(str(bill), *more, "--fail", "critical", "--ignore-unknown") == 0
    assert run(str(bill), "--db", str(tmp_path / "nowhere")) == 36
    assert run(str(bill), *more, "--max-age", "soon") == 2
    capsys.readouterr()
    assert run(*more) == 0
    assert "osv-PyPI: 4 rows, of 2026-11-20" in capsys.readouterr().out
    assert run(*more, "--json") == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [
        "debian-tracker",
        "osv-PyPI",
        "pkgsrc",
    ]
    assert run("--db", str(tmp_path)) == 0, "downloads are there, and no databases"
    assert run("--db", str(tmp_path / "nowhere")) == 36
    assert run("--date", "2026-01-01", str(bill)) == 2
    bill.write_text('{"bomFormat": "CycloneDX", "components": 7}')
    assert run(str(bill), *more) == 2
    feed = downloads.tracker(tmp_path / "again.json")
    assert run("--import", str(feed), "--date", "2026-01-02", "--db", str(tmp_path / "new")) == 0
    assert "of 2026-01-02 (given)" in capsys.readouterr().err
