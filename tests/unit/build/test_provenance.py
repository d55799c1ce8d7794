"""Provenance: complete, the same each time, and with nothing that it may not tell."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from buildstep.build import dependencies, provenance
from buildstep.build.provenance import INTERNAL, MAX, MIN, Facts
from buildstep.images.record import ImageRecord
from buildstep.images.shown import shown_reference
from buildstep.rootfs.interface import Package
from buildstep.spec.fields import BuildSpec, InstallerOptions, OciConfig, RunCommand, RunOptions
from buildstep.spec.lock import LockedPackage, MadeOf
from buildstep.spec.repositories import PackageFile, Repository
from buildstep.spec.shared_cache import SharedCache
from buildstep.spec.trust import Trust
from buildstep.trust.inventory.model import Component, Inventory
from buildstep.trust.statements.statement import Subject, parse

A, B, C = "a" * 64, "b" * 64, "c" * 64


def spec(**more: Any) -> BuildSpec:
    values: dict[str, Any] = {
        "name": "hello", "version": "1.0.0", "source": "m.json", "manifest": {"name": "hello", "description": "FREE"},
        "origin_of": {"packages": "flag", "order": "default"}, "image": "tar:/home/me/base.tar", "proto": Path("/home/me/proto"),
        "image_prefix": "hello", "output_dir": Path("/home/me/out"), "packages": ("nginx", "/home/me/own.deb"),
        "run": (RunCommand(script="curl -H FREE", name="fetch", env={"A": "FREE"}),),
        "run_options": RunOptions(env={"B": "FREE"}),
        "oci": OciConfig(env={"C": "FREE"}, labels={"d": "FREE"}, cmd=("FREE",)),
        "installer_options": InstallerOptions(
            mirror="http://me:FREE@host/debian?FREE", env={"E": "FREE"},
            repositories=(Repository(name="own", uris=("https://me:FREE@host/own",), suites=("s",)),),
        ),
        "proof": Trust(provenance="min"),
    }  # fmt: skip
    return BuildSpec(**values | more)


def image(**more: Any) -> ImageRecord:
    values: dict[str, Any] = {
        "uuid": "u", "key": f"tar:sha256:{A}", "label": "tar:base.tar", "tree_digest": B, "fingerprint": "", "manifest": {},
        "inputs": {"file": "/home/me/base.tar"}, "packages": (Package(name="x", version="1"),), "config": {}, "imported": 0.0,
        "files": 9, "size": 9,
    }  # fmt: skip
    return ImageRecord(**values | more)


def predicate(given: BuildSpec, **more: Any) -> dict[str, Any]:
    facts = Facts(subjects=(Subject("a", {"sha256": A}),), dependencies=[], **more)
    made = provenance.statement(given, facts)
    assert parse(made.to_json()) == made
    return json.loads(made.to_json())["predicate"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("detail", ["min", "max"])
def test_no_free_text_no_value_of_a_variable_and_no_path_is_told(detail: str) -> None:
    text = json.dumps(predicate(spec(proof=Trust(provenance=detail)), ident="i", started=1.0))  # type: ignore[arg-type]
    assert "FREE" not in text
    assert "/home" not in text
    assert "me:" not in text


def test_only_fields_of_the_list_are_told() -> None:
    """A new setting is told by nothing but a row of its own; each row is of a setting, or is said to be none."""
    own = {
        "manifest",
        "recommends",
        "mirror",
        "repositories",
        "hold",
        "installer_env",
        "run_env",
        "origin_of",
    }
    assert (MIN.keys() | MAX.keys() | INTERNAL.keys()) - own <= {
        field.name for field in fields(BuildSpec)
    } | {"locked"}
    least = predicate(spec())
    assert set(least["buildDefinition"]) == {"buildType", "externalParameters", "resolvedDependencies"}
    assert set(least["buildDefinition"]["externalParameters"]) <= set(MIN)
    assert set(least["runDetails"]) == {"builder", "byproducts"}
    most = predicate(
        spec(proof=Trust(provenance="max")), ident="i", started=1.0, finished=2.0, internal={"pool": "dir"}
    )
    assert set(most["buildDefinition"]["internalParameters"]) <= {*INTERNAL, "pool"}
    assert most["runDetails"]["metadata"] == {
        "invocationId": "i", "startedOn": "1970-01-01T00:00:01Z", "finishedOn": "1970-01-01T00:00:02Z",
    }  # fmt: skip
    parameters = most["buildDefinition"]["externalParameters"]
    assert parameters["installer_env"] == ["E"]
    assert parameters["oci"]["labels"] == ["d"]
    assert parameters["packages"] == ["nginx", "own.deb"]
    assert parameters["image"] == "tar:base.tar"
    assert parameters["mirror"] == "http://host/debian"


def test_least_is_the_same_whenever_and_wherever_it_was_built() -> None:
    first = predicate(spec(), ident="1", started=1.0, finished=2.0)
    second = predicate(spec(proto=Path("/x"), output_dir=Path("/y")), ident="2", started=5.0, finished=9.0)
    assert first == second


@pytest.mark.parametrize(
    ("sharing", "mode"),
    [
        (None, "local"),
        (SharedCache(url="dir:/c"), "shared-cache"),
        (SharedCache(url="dir:/c", policy="/p"), "signed-cache"),
        (SharedCache(url="dir:/c", policy="/p", trust="release"), "signed-cache"),
    ],
)
def test_the_builder_tells_who_else_may_write_what_it_uses(sharing: SharedCache | None, mode: str) -> None:
    assert provenance.builder_id(sharing) == f"urn:buildstep:builder:{mode}"
    assert predicate(spec(sharing=sharing))["runDetails"]["builder"]["id"].endswith(mode)
    assert predicate(spec(sharing=sharing, cache=False))["runDetails"]["builder"]["id"].endswith("local")


def locked(name: str, digest: str, version: str = "1") -> LockedPackage:
    return LockedPackage(
        name=name,
        version=version,
        arch="amd64",
        sha256=digest,
        size=1,
        file=f"pool/{name}.deb",
        repository="http://me:x@h/d",
    )


def test_everything_that_went_in_is_named_by_its_digest(tmp_path: Path) -> None:
    def deb(name: str, version: str = "1") -> Component:
        return Component(
            kind="deb", name=name, version=version, arch="amd64", purl=f"pkg:deb/debian/{name}@{version}"
        )

    base = image(
        key="mmdebstrap:bookworm", label="mmdebstrap:bookworm", inputs={"suite": "bookworm", "release": C},
        made_of=MadeOf(packages=(locked("libc6", A),)),
    )  # fmt: skip
    files = dependencies.package_files(spec(), base, [locked("nginx", B)])
    inventory = Inventory(
        name="hello",
        components=(deb("libc6"), deb("nginx"), deb("other"), Component(kind="npm", name="left-pad")),
    )
    given = spec(
        proto=tmp_path,
        source_repo="https://me:x@git.test/r",
        package_files=(PackageFile(name="/home/me/own.deb", path=tmp_path / "own.deb", sha256=C),),
    )
    rows = dependencies.resolved(given, base, B, inventory, files, C)
    by_name = {row["name"]: row for row in rows}
    assert by_name["base image"] == {
        "name": "base image", "uri": "mmdebstrap:bookworm", "digest": {"buildstepTree": B},
    }  # fmt: skip
    assert by_name["Release files of bookworm"]["digest"] == {"buildstepRelease": C}
    assert by_name["package index"]["digest"] == {"buildstepIndex": C}
    assert by_name["libc6"] == {
        "name": "libc6", "uri": "pkg:deb/debian/libc6@1", "digest": {"sha256": A},
        "annotations": {"index": "the base image's"}, "downloadLocation": "http://h/d/pool/libc6.deb",
    }  # fmt: skip
    assert by_name["nginx"]["digest"] == {"sha256": B}
    assert by_name["other"] == {"name": "other", "uri": "pkg:deb/debian/other@1"}
    assert "left-pad" not in by_name
    assert dependencies.without_digest(rows) == 1
    assert by_name["package file own.deb"]["digest"] == {"sha256": C}
    assert by_name["proto directory"] == {
        "name": "proto directory", "digest": {"buildstepProto": B}, "uri": "https://git.test/r",
    }  # fmt: skip
    known = dependencies.with_hashes(inventory, files).components
    assert [dict(row.hashes) for row in known] == [{"sha256": A}, {"sha256": B}, {}, {}]


@pytest.mark.parametrize(
    ("key", "inputs", "digest"),
    [
        (f"tar:sha256:{A}", {}, A),
        ("docker:x", {"registry": "h/n:t", "digest": f"sha256:{C}"}, C),
        ("docker-archive:x", {"image": f"sha256:{C}"}, C),
        ("files:x", {}, ""),
    ],
)
def test_a_base_is_named_by_its_own_digest_too(key: str, inputs: dict[str, str], digest: str) -> None:
    row = dependencies.resolved(
        spec(proto=Path("/gone")), image(key=key, inputs=inputs), A, Inventory(name="a"), {}, ""
    )[0]
    assert row["digest"].get("sha256", "") == digest


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("tar:/home/me/base.tar", "tar:base.tar"),
        ("zfs:/home/a.zfs,/home/a.manifest", "zfs:a.zfs,a.manifest"),
        ("docker://me:x@host/debian:12", "docker://host/debian:12"),
        ("mmdebstrap:bookworm,variant=apt", "mmdebstrap:bookworm,variant=apt"),
        ("oci:../layout/", "oci:layout"),
        ("debian@12", "debian@12"),
        ("/srv/base.tar", "base.tar"),
    ],
)
def test_a_base_is_told_without_path_and_login(given: str, told: str) -> None:
    assert shown_reference(given) == told


@pytest.mark.commands("git")
def test_a_checkout_is_told_with_its_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    from buildstep.system import process

    def git(*words: str) -> None:
        process.query(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words])

    def row() -> dict[str, Any]:
        return dependencies.resolved(spec(proto=tmp_path / "p"), image(), A, Inventory(name="a"), {}, "")[-1]

    (tmp_path / "p").mkdir()
    (tmp_path / "p/file").write_text("a")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    first = row()
    assert len(first["digest"]["gitCommit"]) == 40
    assert first["annotations"] == {"path": "p", "changed": False}
    (tmp_path / "other").write_text("beside the proto directory")
    assert row() == first
    (tmp_path / "p/new").write_text("a")
    assert row()["annotations"]["changed"] is True


def test_every_field_is_on_its_page() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/provenance.md").read_text()
    for name in (
        *MAX,
        *INTERNAL,
        provenance.BUILD_TYPE,
        dependencies.PROTO,
        dependencies.RELEASE,
        dependencies.INDEX,
    ):
        assert f"`{name}`" in page, name
    for mode in ("local", "signed-cache", "shared-cache"):
        assert f"`{provenance.BUILDER}:{mode}`" in page
