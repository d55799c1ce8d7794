"""Bills of materials before judges that are not ours: validators of each format, and scanners that look for themselves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildstep.events import Bus
from buildstep.images import inventory
from buildstep.rootfs import sandbox
from buildstep.trust import sbom
from tests.integration import hostile_packages, pkgsrc_root, test_sample
from tests.integration.conftest import demand
from tests.integration.ordinary_user import LOGIN_PATH, UID, place, usable_python
from tests.integration.support import Lab
from tests.servers import sbom_judges
from tests.servers.fixtures import Registry, registry

__all__ = ["place", "registry"]  # fixtures

EPOCH = "1790000000"


def write(image: Path, folder: Path) -> dict[str, Path]:
    """Write the documents of an image in every format; it is read once."""
    found = {}
    with inventory.of_archive(os.fspath(image), bus=Bus(), environ=os.environ) as looked:
        for name in sbom.FORMATS:
            file = folder / f"x{sbom.find(name).ending}"
            file.write_bytes(sbom.write(name, looked.inventory))
            found[name] = file
    return found


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": os.fspath(test_sample.TOP)}
    argv = [sys.executable, "-P", "-m", "buildstep", "sbom", *arguments]
    return subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, timeout=120)


def libraries(cyclonedx: Any) -> set[tuple[str, str]]:
    return {(row["name"], row["version"]) for row in cyclonedx["components"] if row["type"] == "library"}


def load(documents: Mapping[str, Path]) -> dict[str, Any]:
    return {name: json.loads(path.read_text()) for name, path in documents.items()}


# -- the sample -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample as OCI and tar, from a pool that outlives the session."""
    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror")
    out = tmp_path_factory.mktemp("sample")
    test_sample.build(
        out, "-f", "oci", "-f", "tar", "--compression", "none", "--sbom", SOURCE_DATE_EPOCH=EPOCH
    )
    return out


@pytest.fixture(scope="module")
def documents(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write(sample / "hello-1.0.0.oci.tar", tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="module")
def root(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("root")
    subprocess.run(["tar", "-C", top, "-xf", sample / "hello-1.0.0.tar", "--exclude=./dev/*"], check=True)
    return top


def test_validators_accept_the_sample(documents: dict[str, Path], sample: Path) -> None:
    built = [(name, sample / f"hello-1.0.0{sbom.find(name).ending}") for name in ("spdx", "cyclonedx")]
    assert sbom_judges.faults([*documents.items(), *built]) == {}


def test_the_sample_of_a_vendor_has_the_minimum_elements(sample: Path, tmp_path: Path) -> None:
    """Of an image that says who it is from: that is the one of them which no build can know."""
    with inventory.of_archive(f"{sample}/hello-1.0.0.oci.tar", bus=Bus(), environ=os.environ) as looked:
        given = replace(looked.inventory, supplier="Example Inc. <sbom@example.org>")
    for name, kind in (("spdx", "spdx2"), ("spdx3", "spdx3")):
        document = tmp_path / f"x{sbom.find(name).ending}"
        document.write_bytes(sbom.write(name, given))
        assert sbom_judges.has_minimum_elements(document, kind)
        document.write_bytes(sbom.write(name, looked.inventory))
        assert not sbom_judges.has_minimum_elements(document, kind)


def test_debsbom_names_nothing_that_ours_lacks(
    documents: dict[str, Path], root: Path, tmp_path: Path
) -> None:
    theirs = sbom_judges.debsbom(root, tmp_path)
    ours = load(documents)["spdx"]

    def named(document: Any) -> set[tuple[str, str]]:
        return {(row["name"], row.get("versionInfo", "")) for row in document["packages"]}

    assert len(named(theirs)) > 150
    assert named(theirs) - named(ours) == {("Debian", "")}  # the operating system: ours is called debian 12
    assert ("debian", "12") in named(ours)

    def needs(document: Any) -> set[tuple[str, str]]:
        names = {row["SPDXID"]: row["name"] for row in document["packages"]}
        return {
            (names[row["spdxElementId"]], names[row["relatedSpdxElement"]])
            for row in document["relationships"]
            if row["relationshipType"] == "DEPENDS_ON"
        }

    assert len(needs(theirs)) > 200
    assert {row for row in needs(theirs) if row[0] != "Debian"} - needs(ours) == set()


def test_syft_names_nothing_that_ours_lacks_and_by_the_same_names(
    documents: dict[str, Path], root: Path
) -> None:
    theirs = sbom_judges.syft(f"dir:{root}")["artifacts"]
    ours = load(documents)["cyclonedx"]
    assert {(row["name"], row["version"]) for row in theirs} == libraries(ours)
    purls = {row["purl"] for row in ours["components"] if row["type"] == "library"}
    assert {row["purl"] for row in theirs} == purls


def test_a_scanner_reads_all_of_ours_and_knows_the_system(documents: dict[str, Path]) -> None:
    """A scanner that does not know of which system packages are skips them without a word."""
    expected = libraries(load(documents)["cyclonedx"])
    for name in ("cyclonedx", "spdx"):
        read = sbom_judges.syft_of(documents[name])
        assert {
            (row["name"], row["version"]) for row in read["artifacts"] if row["type"] == "deb"
        } >= expected
        assert (read["distro"]["id"], read["distro"]["versionID"]) == ("debian", "12")


def test_steps_layers_licences_sources_and_base_of_the_sample(documents: dict[str, Path]) -> None:
    rows = {
        row["name"]: row for row in load(documents)["cyclonedx"]["components"] if row["type"] != "library"
    }
    page = {it["name"]: it["value"] for it in rows["/var/www/html/index.html"]["properties"]}
    assert page == {"buildstep:step": "sync", "buildstep:layer": "2"}
    packages = {
        row["name"]: row for row in load(documents)["spdx"]["packages"] if "SOURCE" not in row.values()
    }
    assert "buildstep:step: packages" in packages["nginx-light"]["comment"]
    assert "buildstep:step: base" in packages["bash"]["comment"]
    assert packages["libc6"]["sourceInfo"].startswith("built from glibc ")
    without = {name for name, row in packages.items() if row["licenseDeclared"] == "NOASSERTION"}
    assert len(without) < 10
    assert packages["debian-bookworm-minbase"]["primaryPackagePurpose"] == "CONTAINER"
    assert load(documents)["spdx"]["creationInfo"]["created"] == "2026-09-21T14:13:20Z"


def test_archive_directory_record_and_tar_tell_the_same(
    documents: dict[str, Path], sample: Path, tmp_path: Path
) -> None:
    (tmp_path / "hello-1.0.0.oci").mkdir()
    subprocess.run(
        ["tar", "-C", tmp_path / "hello-1.0.0.oci", "-xf", sample / "hello-1.0.0.oci.tar"], check=True
    )
    record = sample / "hello-1.0.0.buildrecord.json"
    by_record = command(os.fspath(record), "-f", "cyclonedx")
    assert by_record.stdout == documents["cyclonedx"].read_text()
    directory = json.loads(command(os.fspath(tmp_path / "hello-1.0.0.oci"), "-f", "cyclonedx").stdout)
    tar = json.loads(command(os.fspath(sample / "hello-1.0.0.tar"), "-f", "cyclonedx").stdout)
    ours = load(documents)["cyclonedx"]
    assert libraries(directory) == libraries(tar) == libraries(ours)
    # Without the record beside it less is known; a tar has no layers.
    assert directory["components"] == ours["components"]
    # The packages file that the proto directory replaces is a package's, for all that a tar tells.
    lacks = {row["name"] for row in ours["components"]} - {row["name"] for row in tar["components"]}
    assert lacks == {"/etc/nginx/sites-available/default"}


def test_it_is_what_the_build_writes_but_for_what_only_a_build_knows(
    documents: dict[str, Path], sample: Path
) -> None:
    """Which files packages came in is known to a build, and which step of several made a layer."""
    for name in ("spdx", "cyclonedx"):
        built = json.loads((sample / f"hello-1.0.0{sbom.find(name).ending}").read_text())
        ours = load(documents)[name]
        for document in (built, ours):
            document.pop("serialNumber", None)
            document.pop("documentNamespace", None)
            for row in document.get("packages", document.get("components")):
                if "deb/" in json.dumps(row):
                    row.pop("hashes", None)
                    row.pop("checksums", None)
        assert built == ours


# -- other systems --------------------------------------------------------------------------------------------


def test_who_is_not_root_and_has_no_home_gets_the_same(
    documents: dict[str, Path], sample: Path, place: Path
) -> None:
    for name in ("hello-1.0.0.oci.tar", "hello-1.0.0.buildrecord.json"):
        shutil.copy(sample / name, place / name)
        (place / name).chmod(0o444)
    python, path = usable_python()
    done = subprocess.run(
        [python, "-P", "-B", "-m", "buildstep", "sbom", place / "hello-1.0.0.buildrecord.json"],
        env={"PYTHONPATH": path, "PATH": LOGIN_PATH, "HOME": "/nonexistent"}, user=UID, group=UID, extra_groups=[],
        capture_output=True, check=False, cwd=place, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == documents["spdx"].read_bytes()
    assert sorted(os.listdir(place)) == ["hello-1.0.0.buildrecord.json", "hello-1.0.0.oci.tar"]


@pytest.mark.parametrize("epoch", ["", EPOCH])
def test_two_pools_give_the_same_bytes(lab: Lab, tmp_path: Path, epoch: str) -> None:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        other = Lab(top=tmp_path / name, base=lab.base)
        other.built("-f", "oci", "--sbom", env={"SOURCE_DATE_EPOCH": epoch} if epoch else {})
        documents = write(other.out / "hello-1.0.0.oci.tar", tmp_path / name)
        documents |= {f"built {kind}": other.out / f"hello-1.0.0.{kind}.json" for kind in ("spdx", "cdx")}
        found.append({kind: path.read_bytes() for kind, path in documents.items()})
    assert found[0] == found[1]
    assert (b"sha256:" in found[0]["spdx"]) == bool(epoch)


def test_an_image_of_a_registry_and_of_a_pool_is_what_its_archive_is(lab: Lab, registry: Registry) -> None:
    (lab.proto / "srv/node_modules/left-pad").mkdir(parents=True)
    module = {"name": "left-pad", "version": "1.3.0", "license": "MIT"}
    (lab.proto / "srv/node_modules/left-pad/package.json").write_text(json.dumps(module))
    lab.built("-f", "oci")
    archive = json.loads(lab.command("sbom", f"{lab.out}/hello-1.0.0.oci.tar", "-f", "cyclonedx").stdout)
    target = f"docker://{registry.host}/ns/hello"
    published = lab.command("image", "publish", f"{lab.out}/hello-1.0.0.buildrecord.json", target)
    assert published.status == 0, published.stderr
    remote = lab.command("sbom", f"{target}:1.0.0", "-f", "cyclonedx")
    assert remote.status == 0, remote.stderr
    imported = lab.command("image", "import", f"{target}:1.0.0", "--pool", lab.uri, "--json")
    assert imported.status == 0, imported.stderr
    kept = lab.command("sbom", "hello@1.0.0", "-f", "cyclonedx", "--pool", lab.uri)
    assert kept.status == 0, kept.stderr
    found = {name: json.loads(done.stdout) for name, done in (("registry", remote), ("pool", kept))}
    assert found["registry"]["components"] == archive["components"]
    assert found["pool"]["components"] == archive["components"]
    assert found["pool"]["metadata"]["lifecycles"] == [{"phase": "build"}]
    pad = next(row for row in archive["components"] if row["name"] == "left-pad")
    assert {"name": "buildstep:step", "value": "sync"} in pad["properties"]


def test_validators_accept_an_image_of_pkgsrc(tmp_path: Path, private: Callable[..., Any]) -> None:
    demand("busybox")
    root = pkgsrc_root.make_root(tmp_path / "root", "/opt/local")
    (tmp_path / "repository").mkdir()
    repository = pkgsrc_root.Repository(tmp_path / "repository", "/opt/local")
    repository.add("zlib", "1.3.1nb1", build={"LICENSE": "zlib"})
    repository.add(
        "curl", "8.0", depends=["zlib-1.3.1nb1"], build={"LICENSE": "curl-license AND modified-bsd"}
    )

    def job() -> None:
        with (
            sandbox.enter(root, bus=Bus(), environ={}) as inside,
            inside.share(repository.path, pkgsrc_root.SHOWN),
        ):
            inside.run(
                ["/opt/local/sbin/pkg_add", "curl"],
                env={"PATH": "/opt/local/sbin:/bin", "PKG_PATH": pkgsrc_root.SHOWN},
            )

    private(job)
    subprocess.run(["tar", "-C", root, "-cf", tmp_path / "zone.tar", "."], check=True)
    documents = write(tmp_path / "zone.tar", tmp_path)
    assert sbom_judges.faults(list(documents.items())) == {}
    rows = {
        row["name"]: row for row in load(documents)["cyclonedx"]["components"] if row["type"] == "library"
    }
    assert {"curl", "zlib"} <= set(rows)
    needs = {row["ref"]: row.get("dependsOn") for row in load(documents)["cyclonedx"]["dependencies"]}
    assert needs[rows["curl"]["bom-ref"]] == [rows["zlib"]["bom-ref"]]


def test_validators_accept_python_and_npm_of_a_proto_directory(lab: Lab, tmp_path: Path) -> None:
    site = lab.proto / "opt/venv/lib/python3.11/site-packages"
    for name, version, licence in (("Requests_X", "2.31.0", "Apache-2.0"), ("odd", "1.0", "see LICENSE")):
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: {licence}\n"
        )
        (info / "RECORD").write_text(f"{name}-{version}.dist-info/METADATA,,\n")
    for path, version in (
        ("left-pad", "1.3.0"),
        ("@scope/web", "1.0.0"),
        ("a/node_modules/left-pad", "1.3.0"),
    ):
        module = lab.proto / "srv/app/node_modules" / path
        module.mkdir(parents=True)
        name = path.rpartition("node_modules/")[2]
        (module / "package.json").write_text(json.dumps({"name": name, "version": version, "license": "MIT"}))
    lab.built("-f", "oci")
    documents = write(lab.out / "hello-1.0.0.oci.tar", tmp_path)
    assert sbom_judges.faults(list(documents.items())) == {}
    purls = {row.get("purl") for row in load(documents)["cyclonedx"]["components"]}
    assert {
        "pkg:pypi/requests-x@2.31.0", "pkg:pypi/odd@1.0", "pkg:npm/left-pad@1.3.0", "pkg:npm/%40scope/web@1.0.0",
    } <= purls  # fmt: skip
    theirs = sbom_judges.syft(f"oci-archive:{lab.out}/hello-1.0.0.oci.tar")["artifacts"]
    theirs = {row["purl"] for row in theirs if row["type"] in ("python", "npm")}
    assert theirs
    assert theirs <= purls


def test_validators_accept_whatever_packages_say_of_themselves(tmp_path: Path) -> None:
    documents = []
    for seed in range(12):
        (tmp_path / str(seed)).mkdir()
        image = hostile_packages.write_image(tmp_path / f"{seed}.tar", seed)
        documents += list(write(image, tmp_path / str(seed)).items())
    assert sbom_judges.faults(documents) == {}
