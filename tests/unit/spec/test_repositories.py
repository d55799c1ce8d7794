"""Repositories of a build, and packages that are files."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from buildstep.spec.fields import BuildSpec
from tests.unit.specdata import Load, faults, with_build

ARMORED = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEZ\n-----END PGP PUBLIC KEY BLOCK-----\n"
BINARY = bytes([0x98, 0x33, 4, 1, 2, 3])
ROW: dict[str, Any] = {
    "name": "a",
    "uris": ["https://a.example/debian"],
    "suites": ["stable"],
    "components": ["main"],
}


def load(build: Load, *rows: dict[str, Any]) -> BuildSpec:
    return build(with_build(installer_options={"repositories": list(rows)}))


def test_keys_are_read_from_where_the_m_json_is(build: Load, tmp_path: Path) -> None:
    (tmp_path / "a.asc").write_text(ARMORED)
    (tmp_path / "b.gpg").write_bytes(BINARY)
    spec = load(
        build,
        ROW | {"signed_by": "a.asc"},
        ROW | {"name": "b", "signed_by": "b.gpg"},
        ROW | {"name": "c", "signed_by": ARMORED},
        ROW | {"name": "d", "trusted": True},
    )
    rows = spec.installer_options.repositories
    assert [row.key for row in rows] == [ARMORED.encode(), BINARY, ARMORED.encode(), b""]
    assert [row.is_armored for row in rows] == [True, False, True, False]


def test_all_that_is_wrong_is_told(build: Load, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "private").write_text(ARMORED.replace("PUBLIC", "PRIVATE"))
    rows = [
        ROW | {"signed_by": "gone"},
        ROW | {"name": "b", "signed_by": "text"},
        ROW | {"name": "c", "signed_by": "private"},
        ROW | {"name": "d", "uris": ["ftp://a.example", "https://u:p@a.example"]},
        {"name": "e", "uris": ["file:/srv"], "suites": ["./"], "components": ["main"]},
        {"name": "f", "uris": ["file:/srv"], "suites": ["stable"]},
        ROW | {"name": "f", "signed_by": ARMORED, "trusted": True},
    ]
    at = "$.build.installer_options.repositories"
    found = faults(build, with_build(installer_options={"repositories": rows}))
    assert found.keys() == {
        f"{at}[0].signed_by", f"{at}[1].signed_by", f"{at}[2].signed_by", f"{at}[3].uris[0]", f"{at}[3].uris[1]",
        f"{at}[4].components", f"{at}[5]", f"{at}[6].name", f"{at}[6].trusted",
    }  # fmt: skip
    assert "u:p" not in "".join(found.values())


def test_package_files_are_relative_to_the_m_json_and_known_by_content(build: Load, tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(b"one")
    spec = build(with_build(packages=["curl", "./a.deb", "./a.deb", "tar/stable"]))
    (file,) = spec.package_files
    assert (file.name, file.path) == ("./a.deb", tmp_path / "a.deb")
    assert file.sha256 == hashlib.sha256(b"one").hexdigest()
    assert str(tmp_path) not in str(spec.to_json()["package_files"]), (
        "where the checkout lies decides nothing"
    )
    found = faults(build, with_build(packages=["curl", "./b.deb", "/no/such.deb"]))
    assert found.keys() == {"$.build.packages[1]", "$.build.packages[2]"}


def test_a_binary_key_is_base64_in_the_spec(build: Load, tmp_path: Path) -> None:
    (tmp_path / "b.gpg").write_bytes(BINARY)
    (row,) = load(build, ROW | {"signed_by": "b.gpg"}).installer_options.repositories
    assert row.signed_by == base64.b64encode(BINARY).decode()
    # So it is in a build record, from which a spec is made again.
    long = base64.b64encode(BINARY + bytes(300)).decode()
    (row,) = load(build, ROW | {"signed_by": long}).installer_options.repositories
    assert row.signed_by == long
