"""Feeds are read as their publishers mean them, and refused where they are damaged or hostile."""

from __future__ import annotations

import gzip
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep.errors import UsageError
from buildstep.trust.vulnerabilities.directory import form_of
from buildstep.trust.vulnerabilities.feeds import json_stream
from buildstep.trust.vulnerabilities.feeds.interface import Reading
from buildstep.trust.vulnerabilities.model import Advisory
from tests.unit.trust.vulnerabilities import downloads


def read(path: Path) -> tuple[Reading, dict[tuple[str, str, str], Advisory]]:
    form = form_of(path)
    assert form is not None
    reading = form.read(path)
    rows = {(scope, name, row.id): row for scope, name, row in reading.rows}
    return reading, rows


def test_of_debians_tracker_each_rule_counts(tmp_path: Path) -> None:
    reading, rows = read(downloads.tracker(tmp_path / "any-name"))
    assert reading.name == "debian-tracker"
    told = {ident: row for (scope, _, ident), row in rows.items() if scope == "debian/bookworm"}
    assert {ident: (row.state, row.severity, row.fixed) for ident, row in told.items()} == {
        "CVE-2023-45853": ("wont-fix", "low", ""),
        "CVE-2024-5535": ("fixed", "unknown", "3.0.14-1~deb12u1"),
        "CVE-2024-4741": ("fixed", "unknown", "3.0.13-1~deb12u1"),
        "CVE-2024-9143": ("minor", "low", ""),
        "CVE-2025-0001": ("postponed", "low", ""),
        "CVE-2019-1010022": ("unimportant", "negligible", ""),
        "CVE-2026-0002": ("undetermined", "unknown", ""),
        "CVE-2026-0003": ("open", "high", ""),
        "TEMP-0000000-4DA0A8": ("open", "low", ""),
        "CVE-2026-0004": ("end-of-life", "unknown", ""),
    }
    assert told["CVE-2023-45853"].ranges == ((("introduced", "0"), ("fixed", "1:1.3.dfsg-3.1")),)
    assert told["CVE-2023-45853"].note == "contrib/minizip not built"
    assert told["CVE-2024-4741"].summary.startswith("A flaw \u2014 with")
    # "0": it was never affected.
    assert not [key for key in rows if key[2] == "CVE-2016-9840" or key[0] == "debian/trixie"]


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_compressed_download_is_the_same(tmp_path: Path, pack: object) -> None:
    path = downloads.tracker(tmp_path / "plain")
    expected = read(path)[1]
    path.write_bytes(pack(path.read_bytes()))  # type: ignore[operator]
    assert read(path)[1] == expected


def test_records_of_osv_are_read_for_packages_alone(tmp_path: Path) -> None:
    reading, rows = read(downloads.osv(tmp_path / "all.zip"))
    assert reading.name == "osv-PyPI"
    assert reading.dated == "the newest record"
    assert abs(reading.updated - 1795168800) < 1
    assert reading.only("pypi")
    assert not reading.only("npm"), "of npm there is only what records of Python's packages say besides"
    row = rows["pypi", "requests", "GHSA-j8r2-6x86-q33q"]
    assert (row.severity, row.score, row.severity_source) == ("critical", "9.1", "CVSS 3")
    assert row.ranges == ((("introduced", "2.3.0"), ("fixed", "2.31.0")),)
    assert row.aliases == ("CVE-2023-32681",)
    assert rows["pypi", "reqeusts", "MAL-2026-1"].versions == ("0.0.1",)
    assert ("pypi", "requests", "PYSEC-2026-1") not in rows, "it was withdrawn"


def test_ecosystems_of_osv_become_scopes(tmp_path: Path) -> None:
    events = [{"introduced": "0"}]
    names = ["Debian:12", "Debian:13", "Alpine:v3.19", "Ubuntu:22.04:LTS", "Ubuntu:Pro:18.04:LTS", "Go", "Maven", "npm"]  # fmt: skip
    path = downloads.osv(
        tmp_path / "all.zip",
        [downloads.record(f"X-{number}", downloads.affected(name, "p", *events)) for number, name in enumerate(names)],
    )  # fmt: skip
    reading, rows = read(path)
    assert sorted(scope for scope, _, _ in rows) == [
        "alpine/v3.19", "debian/bookworm", "debian/trixie", "go", "npm", "ubuntu/22.04",
    ]  # fmt: skip
    assert reading.name == "osv-all"
    assert reading.skipped == {"packages of Maven": 1, "packages of Ubuntu:Pro:18.04:LTS": 1}


def test_patterns_of_pkgsrc_are_kept_by_the_packages_they_may_fit(tmp_path: Path) -> None:
    reading, rows = read(downloads.pkgsrc(tmp_path / "pkg-vulnerabilities"))
    assert (reading.updated, reading.dated) == (1793521815.0, "the file's own date")
    assert {(name, row.pattern): (row.id, row.state, row.fixed) for (_, name, _), row in rows.items()} == {
        ("libxml2", "libxml2<2.15.2"): ("CVE-2026-1111", "fixed", "2.15.2"),
        ("apache", "apache>=2.4<2.4.60nb1"): ("https://httpd.example.org/security", "fixed", "2.4.60nb1"),
        ("www-server", "www-server>=2.4<2.4.60nb1"): ("https://httpd.example.org/security", "fixed", "2.4.60nb1"),
        ("php74*", "php74-[0-9]*"): ("https://www.php.net/eol.php", "end-of-life", ""),
        ("*", "php8[0-9]-[0-9]*"): ("https://www.php.net/eol.php", "end-of-life", ""),
        ("png", "png-1.2.3"): ("CVE-2010-2222", "open", ""),
        ("openssl", "openssl<=3.0.9"): ("CVE-2026-3333", "open", ""),
    }  # fmt: skip


def test_the_lists_of_debsecan_are_of_the_release_that_names_them(tmp_path: Path) -> None:
    reading, rows = read(downloads.debsecan(tmp_path / "bookworm"))
    assert reading.name == "debsecan-bookworm"
    row = rows["debian/bookworm", "openssl", "CVE-2024-5535"]
    assert (row.state, row.fixed, row.severity, row.summary) == (
        "fixed", "3.0.15-1~deb12u1", "medium", "A flaw, with commas",
    )  # fmt: skip
    assert row.unaffected == ("3.0.14-1~deb12u1", "3.0.15-1~deb12u1")
    with pytest.raises(UsageError, match="its name is none"):
        read(downloads.debsecan(tmp_path / "some-list"))
    whole = zlib.decompress((tmp_path / "bookworm").read_bytes()).decode()
    packages = whole[: whole.rindex("\n\n") + 1]
    for cut in (packages, packages[: packages.index("openssl,") + 4]):
        with pytest.raises(UsageError, match="is no whole list"):
            read(downloads.debsecan(tmp_path / "bookworm", cut))
    packed = zlib.compressobj()
    (tmp_path / "bookworm").write_bytes(packed.compress(whole.encode()) + packed.flush(zlib.Z_SYNC_FLUSH))
    with pytest.raises(UsageError, match="is cut off"):
        read(tmp_path / "bookworm")
    (tmp_path / "bookworm").write_bytes(zlib.compress(whole.encode())[:-1] + b"\0")
    with pytest.raises(UsageError, match="is damaged"):
        read(tmp_path / "bookworm")


BAD_TRACKERS = {
    "cut off": '{"zlib": {"CVE-2024-1": {"releases": {}',
    "cut between": '{"zlib": {"CVE-2024-1": {"releases": {}}}',
    "no colon": '{"zlib": {"CVE-2024-1": {"releases": {}}, "x" 1}}',
    "no comma": '{"zlib": {"CVE-2024-1": {"releases": {}}} "x": {}}',
    "more behind": '{"zlib": {"CVE-2024-1": {"releases": {}}}} {}',
    "a list": '{"zlib": {"CVE-2024-1": {"releases": {}}}, "y": []}',
    "too deep": '{"zlib": {"CVE-2024-1": {"releases": ' + "[" * 100_000 + "]" * 100_000 + "}}}",
}


@pytest.mark.parametrize("what", BAD_TRACKERS)
def test_a_tracker_file_that_is_none_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "json").write_text(BAD_TRACKERS[what])
    with pytest.raises(UsageError, match="json: "):
        read(tmp_path / "json")


def test_strange_members_are_counted_and_left_out(tmp_path: Path) -> None:
    value = {
        "zlib": {"CVE-1": {"releases": {"bookworm": "open"}}, "CVE-2": {"releases": 7}, "CVE-3": 8},
        "x": {"CVE-4": downloads.problem(bookworm=downloads.release())},
    }
    reading, rows = read(downloads.tracker(tmp_path / "json", value))
    assert list(rows) == [("debian/bookworm", "x", "CVE-4")]
    assert reading.skipped == {"problems without releases": 2, "releases of another form": 1}


def test_no_member_is_read_that_has_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "LARGEST", 1 << 20)
    (tmp_path / "json").write_text('{"zlib": {"CVE-2024-1": {"releases": {"' + "x" * (8 << 20))
    with pytest.raises(UsageError, match="a member of it is too large"):
        read(tmp_path / "json")


BAD_PATTERNS: dict[str, Callable[[Path], object]] = {
    "its #CHECKSUM": lambda path: downloads.pkgsrc(path, checksum="ab" * 64),
    "has no #CHECKSUM": lambda path: path.write_text(downloads.PATTERNS),
    "another form": lambda path: downloads.pkgsrc(path, downloads.PATTERNS.replace("1.1.0", "1.2.0")),
    "cut off": lambda path: path.write_text(downloads.pkgsrc(path).read_text()[:-3]),
    "no URL": lambda path: downloads.pkgsrc(path, f"{downloads.PATTERNS}lonely<1\n"),
}


@pytest.mark.parametrize("what", BAD_PATTERNS)
def test_patterns_that_are_not_as_they_were_published_are_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "pkg-vulnerabilities"
    BAD_PATTERNS[what](path)
    with pytest.raises(UsageError, match=what):
        read(path)


def test_braces_that_stand_for_too_much_are_left_out(tmp_path: Path) -> None:
    rows = "".join(
        f"{'{a,b,c,d}' * 12}-1.{n}\teol\thttps://example.org\n{{x-1\teol\thttps://x\n" for n in range(2)
    )
    reading, found = read(downloads.pkgsrc(tmp_path / "list", f"{downloads.PATTERNS}{rows}"))
    assert reading.skipped == {"patterns whose braces do not match": 4}
    assert len(found) == 7


def test_a_zip_that_is_damaged_or_hostile_is_refused(tmp_path: Path) -> None:
    path = downloads.osv(tmp_path / "all.zip")
    data = path.read_bytes()
    for cut in (len(data) // 2, len(data) - 5):
        path.write_bytes(data[:cut])
        with pytest.raises(UsageError, match="damaged"):
            read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")
    with pytest.raises(UsageError, match="has no record of OSV"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.json", "[1]")
    with pytest.raises(UsageError, match="no record of OSV"):
        read(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", b" " * (65 << 20))
    with pytest.raises(UsageError, match="too large"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.json", "[" * 100_000)
    with pytest.raises(UsageError, match="no JSON"):
        read(path)


def test_anything_else_has_no_form(tmp_path: Path) -> None:
    for name, data in {
        "text": b"hello",
        "json": b'{"a": 1}',
        "empty": b"",
        "list": b"[]",
        "bin": b"\x78\x9c\0",
    }.items():
        (tmp_path / name).write_bytes(data)
        assert form_of(tmp_path / name) is None, name
    (tmp_path / "osv.json").write_text(json.dumps(downloads.PYPI[0]))
    assert form_of(tmp_path / "osv.json") is None
