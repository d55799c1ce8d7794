"""The lock of an m.json: written and read again, every fault told, and judged by what is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import LockError, SpecError
from buildstep.formats.oci.spec import OciPlatform
from buildstep.spec import lock, locking
from buildstep.spec.lock import Asked, Lock, LockedBase, LockedPackage
from tests.unit.specdata import GOOD, Load, with_build

ROW = LockedPackage(
    name="alpha",
    version="1:1.0",
    arch="all",
    sha256="a" * 64,
    size=3,
    file="pool/a.deb",
    repository="http://m/x",
)
ROW_JSON = {
    "name": "a", "version": "1", "arch": "all", "sha256": "a" * 64, "size": 1, "file": "x", "repository": "http://m",
}  # fmt: skip
HERE = str(OciPlatform.here())


def made(**more: Any) -> Lock:
    base = LockedBase(label="scratch", key="scratch:", uuid="u", tree_digest="b" * 64, packages=(ROW,))
    values: dict[str, Any] = {"asked": Asked(image="scratch", platform=HERE), "base": base, **more}
    return Lock(
        date="20260102T030405Z", packages=(ROW,), removed=("gone",), tools={"codec gzip": "1"}, **values
    )


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "m.lock.json"
    lock.write(path, made())
    found = lock.read(path)
    assert found is not None
    assert found == made()
    assert found.path == path
    assert len(found.sha256) == 64
    assert path.stat().st_mode & 0o777 == 0o644
    assert found.versions() == {"alpha": "1:1.0", "gone": ""}
    assert ROW.uri == "http://m/x/pool/a.deb"
    assert lock.read(tmp_path / "none") is None


def test_the_digest_of_packages_is_that_of_their_files() -> None:
    one = made()
    assert one.packages_digest() == replace(one, tools={}, date="20270102T030405Z").packages_digest()
    other = replace(one, packages=(replace(ROW, sha256="c" * 64),))
    assert one.packages_digest() != other.packages_digest()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format_version": 2}, "$.format_version: 2 is not 1"),
        ({"date": "today"}, "$.date"),
        ({"packages": [{"name": "a"}]}, "$.packages[0].sha256: is required"),
        ({"packages": [{**ROW_JSON, "file": "../../etc/passwd"}]}, "$.packages[0].file"),
        ({"packages": [{**ROW_JSON, "name": "../x"}]}, "$.packages[0].name"),
        ({"packages": [ROW_JSON, ROW_JSON]}, "$.packages[1]: a is there twice"),
        ({"base": {}}, "$.base.key: is required"),
        ({"bse": 1}, 'did you mean "base"?'),
    ],
)  # fmt: skip
def test_every_fault_of_a_lock_is_told(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = tmp_path / "m.lock.json"
    path.write_text(json.dumps(made().to_json() | changes))
    with pytest.raises(SpecError) as caught:
        lock.read(path)
    assert told in caught.value.detail


def test_what_is_no_json_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.lock.json"
    path.write_text("{")
    with pytest.raises(SpecError):
        lock.read(path)


@pytest.mark.parametrize(
    ("source", "variants", "name"),
    [
        ("m.json", (), "m.lock.json"),
        ("a/m.json.j2", (), "a/m.lock.json"),
        ("m.json", ("small", "linux/arm64"), "m.small.linux-arm64.lock.json"),
        ("inline manifest", (), None),
        ("standard input", (), None),
    ],
)
def test_where_a_lock_is(source: str, variants: tuple[str, ...], name: str | None) -> None:
    path = lock.path_of(source, Path("/here"), variants)
    assert path == (Path("/here") / name if name else None)


@pytest.mark.parametrize(
    ("key", "image", "reference"),
    [
        ("tar:sha256:" + "a" * 64, "tar:base.tar", "tar:base.tar"),
        ("image:some-uuid", "base@1.0", "some-uuid"),
        (f"docker:sha256:{'a' * 64}:linux/amd64", "docker://h:5000/n/m:1", f"docker://h:5000/n/m@sha256:{'a' * 64}"),
        (f"docker:sha256:{'a' * 64}:linux/amd64", "docker://h:5000/n", f"docker://h:5000/n@sha256:{'a' * 64}"),
        ("mmdebstrap:bookworm&x86_64", "mmdebstrap:bookworm", "mmdebstrap:bookworm"),
    ],
)  # fmt: skip
def test_a_base_is_asked_for_by_what_does_not_move(key: str, image: str, reference: str) -> None:
    base = LockedBase(label="l", key=key, uuid="some-uuid", tree_digest="")
    assert made(base=base, asked=Asked(image=image)).base_reference() == reference


# -- with an m.json -----------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "m.json").write_text(json.dumps(GOOD))
    lock.write(tmp_path / "m.lock.json", made())
    return tmp_path


def test_a_lock_that_fits_is_used(here: Path, build: Load) -> None:
    spec = build(manifest_arg="m.json")
    assert spec.lock == made()
    assert spec.to_json()["lock"] == {"path": str(here / "m.lock.json"), "sha256": spec.lock.sha256}
    assert spec.base == "scratch"
    assert build(manifest_arg="m.json", flags={"locked": True}).lock is not None
    assert build(manifest_arg="m.json", flags={"locked": False}).lock is None


def test_one_that_does_not_fit_is_an_error_where_nobody_reads_warnings(here: Path, build: Load) -> None:
    (here / "m.json").write_text(json.dumps(with_build(packages=["curl"], upgrade_first=True)))
    spec = build(manifest_arg="m.json")
    assert spec.lock is None
    assert (
        "the package curl is not in it; upgrade_first is true, and was false; it is not used"
        in spec.lock_problem
    )
    for more in ({"environ": {"CI": "true"}}, {"environ": {"JENKINS_URL": "x"}}, {"flags": {"locked": True}}):
        with pytest.raises(LockError, match="the package curl is not in it") as caught:
            build(manifest_arg="m.json", **more)
        assert "`buildstep lock m.json` writes it anew" in caught.value.hint
    assert not build(manifest_arg="m.json", environ={"CI": "false"}).lock


def test_a_lock_that_is_demanded_has_to_be_there(here: Path, build: Load) -> None:
    (here / "m.lock.json").unlink()
    assert build(manifest_arg="m.json").lock is None
    with pytest.raises(LockError, match=r"there is no lock .*m\.lock\.json"):
        build(manifest_arg="m.json", flags={"locked": True})
    with pytest.raises(SpecError, match="1 fault"):
        build(flags={"locked": True})


def test_a_platform_of_the_command_line_has_a_lock_of_its_own(here: Path, build: Load) -> None:
    spec = build(manifest_arg="m.json", flags={"platform": "linux/arm64"})
    assert locking.path_for(spec, here) == here / "m.linux-arm64.lock.json"
    assert spec.lock is None
    lock.write(here / "m.linux-arm64.lock.json", made(asked=Asked(image="scratch", platform="linux/arm64")))
    assert build(manifest_arg="m.json", flags={"platform": "linux/arm64"}).lock is not None


def test_what_packages_come_from_and_which_are_held_is_asked_too(here: Path, build: Load) -> None:
    """Files are told by their content."""
    repository = {"name": "other", "uris": ["http://127.0.0.1/"], "suites": ["./"], "trusted": True}
    options = {"repositories": [repository], "hold": ["dpkg"]}
    (here / "file.deb").write_text("one")
    document = GOOD | {
        "build": {"image": "scratch", "packages": ["./file.deb"], "installer_options": options}
    }
    (here / "m.json").write_text(json.dumps(document))
    spec = build(manifest_arg="m.json")
    for said in ("repository other http://127.0.0.1/ ./ is", "held package dpkg is", "package ./file.deb"):
        assert f"the {said}" in spec.lock_problem
    lock.write(here / "m.lock.json", made(asked=locking.asked(spec)))
    assert (again := build(manifest_arg="m.json")).lock is not None
    assert again.lock.asked == locking.asked(spec)
    (here / "file.deb").write_text("two")
    problem = build(manifest_arg="m.json").lock_problem
    assert "asks for: the package file ./file.deb is another one;" in problem
