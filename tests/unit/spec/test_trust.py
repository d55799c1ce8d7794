"""`build.trust`, its flags and variables."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from buildstep.spec.fields import to_data
from buildstep.spec.trust import AllowedSecret, Trust, Vulnerabilities
from tests.unit.specdata import Load, faults, with_build

SHORT = ("spdx", "cyclonedx")


def test_true_is_short_for_a_bill_of_materials_and_provenance(build: Load) -> None:
    assert build(with_build(trust=True)).proof == Trust(sbom=SHORT, provenance="min")
    assert build(with_build(trust=False)).proof == build().proof == Trust()
    assert not Trust(secrets="fail", base="/p").writes
    assert Trust(keys=("agent",)).writes


def test_of_an_object_only_what_it_names_is_made(build: Load, tmp_path: Path) -> None:
    for name in ("key.pem", "base.toml", "except.toml"):
        (tmp_path / name).touch()
    trust = {
        "sbom": ["spdx3", "spdx"],
        "provenance": "max",
        "key": ["key.pem", "agent", "pkcs11:token=a"],
        "base": "base.toml",
        "secrets": "fail",
        "allow_secrets": [{"path": "/a/*", "reason": "a test's", "until": "2027-01-31"}],
        "vulnerabilities": {"db": "db", "fail": "high", "exceptions": "except.toml"},
    }
    assert build(with_build(trust=trust)).proof == Trust(
        sbom=("spdx3", "spdx"),
        provenance="max",
        keys=(f"{tmp_path}/key.pem", "agent", "pkcs11:token=a"),
        base=f"{tmp_path}/base.toml",
        secrets="fail",
        allow_secrets=(AllowedSecret(path="/a/*", reason="a test's", until="2027-01-31"),),
        vulnerabilities=Vulnerabilities(
            db=f"{tmp_path}/db", fail="high", exceptions=f"{tmp_path}/except.toml"
        ),
    )
    assert build(with_build(trust={"secrets": "warn", "key": None})).proof == Trust(secrets="warn")


def test_flags_win_over_the_file_and_it_over_the_environment(build: Load, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    variables = {"BUILDSTEP_SIGN_KEY": "c", "BUILDSTEP_PROVENANCE": "max", "BUILDSTEP_SBOM": "1"}
    alone = build(environ=variables).proof
    assert alone == Trust(sbom=SHORT, provenance="max", keys=(f"{tmp_path}/c",))
    document = with_build(trust={"key": "b", "provenance": "min", "sbom": ["spdx3"]})
    assert build(document, environ=variables).proof == Trust(
        sbom=("spdx3",), provenance="min", keys=(f"{tmp_path}/b",)
    )
    flags = {"sbom": True, "provenance": "max", "sign_key": ("a", "agent"), "base_policy": "a"}
    assert build(document, environ=variables, flags=flags).proof == Trust(
        sbom=("spdx3",), provenance="max", keys=(f"{tmp_path}/a", "agent"), base=f"{tmp_path}/a"
    )
    assert build(document, flags={"sbom": False}).proof.sbom == ()


def test_a_variable_can_hold_the_object(build: Load) -> None:
    assert build(environ={"BUILDSTEP_TRUST": '{"sbom": ["spdx3"]}'}).proof == Trust(sbom=("spdx3",))
    assert build(environ={"BUILDSTEP_TRUST": "true"}).proof == Trust(sbom=SHORT, provenance="min")
    cache = {"shared": "dir:/srv/cache"}
    assert build(environ={"BUILDSTEP_CACHE": json.dumps(cache)}).cache == cache


def test_every_file_that_is_not_there_is_told(build: Load, tmp_path: Path) -> None:
    trust = {
        "key": ["a", "agent:SHA256:x"],
        "base": "b",
        "vulnerabilities": {"db": "d", "exceptions": "c", "vex": "v"},
        "allow_secrets": [{"reason": "r"}, {"reason": "r", "path": "a", "digest": "0" * 64}],
    }
    flags = {"sign_key": ("e",), "base_policy": "f"}
    told = faults(build, with_build(trust=trust), flags=flags)
    assert set(told) == {
        "$.build.trust.key[0]",
        "$.build.trust.base",
        "$.build.trust.vulnerabilities.exceptions",
        "$.build.trust.vulnerabilities.vex",
        "$.build.trust.allow_secrets[0]",
        "$.build.trust.allow_secrets[1]",
        "--sign-key",
        "--base-policy",
    }
    assert f"{tmp_path}/e is not a file" in told["--sign-key"]


@pytest.mark.parametrize("word", ["agent", "agent:SHA256:abc", "pkcs11:token=x;object=y"])
def test_what_is_no_file_need_not_be_one(build: Load, word: str) -> None:
    assert build(with_build(trust={"key": word})).proof.keys == (word,)


def test_a_place_that_another_package_brings_is_no_file(
    build: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [
        metadata.EntryPoint(name, "another:kind", "buildstep.signers") for name in ("kms", "file", "pkcs11")
    ]
    monkeypatch.setattr(
        metadata, "entry_points", lambda group: points if group == "buildstep.signers" else []
    )
    (tmp_path / "kms:").touch()
    trust = {"key": ["kms:alias/release", "kms:"]}
    assert build(with_build(trust=trust)).proof.keys == ("kms:alias/release", f"{tmp_path}/kms:")
    assert build(environ={"BUILDSTEP_SIGN_KEY": "kms:a"}).proof.keys == ("kms:a",)
    wrong = ["kmz:alias/release", "/kms:a", "file:a", ":a"]
    assert len(faults(build, with_build(trust={"key": wrong}))) == len(wrong)


def test_it_is_written_as_data(build: Load) -> None:
    data = to_data(build(with_build(trust={"vulnerabilities": {"db": "/d"}})).proof)
    assert isinstance(data, dict)
    assert data["vulnerabilities"] == {
        "db": "/d", "fixed_only": False, "ignore_unknown": False, "eol": False, "complete": False, "max_age": "",
    }  # fmt: skip
