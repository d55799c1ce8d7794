"""The README's main job: the sample image, built for real, read and run by tools that are not ours."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildstep.spec import imgmanifest
from tests.integration.conftest import cache_dir, demand

TOP = Path(__file__).resolve().parents[2]
SAMPLE = TOP / "fixtures" / "sample"


def build(out: Path, *options: str, proto: Path = SAMPLE / "proto", **environ: str) -> dict[str, Any]:
    """Run bin/build on the sample, as a user does, in a pool that outlives the session."""
    env = {**os.environ, "BUILDSTEP_POOL": f"overlay:{cache_dir() / 'sample-pool'}", **environ}
    command: list[str | Path] = [TOP / "bin/build", "-m", SAMPLE / "m.json", "-o", out, "--json"]
    command += [*options, proto]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror")
    return build(tmp_path_factory.mktemp("bits"))


def test_the_json_object_tells_what_is_on_disk(image: dict[str, Any]) -> None:
    assert set(image) == {"uuid", "manifest", "record", "files", "steps", "tree_digest", "seconds", "sources"}
    (file,) = image["files"]
    content = Path(file["path"]).read_bytes()
    assert (len(content), file["format"], file["compression"]) == (file["size"], "oci", "none")
    assert hashlib.sha256(content).hexdigest() == file["sha256"]
    written = imgmanifest.read(image["manifest"])
    assert imgmanifest.validate(written, limits="emit") == []
    assert written["uuid"] == image["uuid"]
    assert written["files"] == [
        {"size": file["size"], "compression": "none", "sha1": hashlib.sha1(content).hexdigest()}
    ]
    record = json.loads(Path(image["record"]).read_text())
    assert record["tree_digest"] == image["tree_digest"]
    assert "nginx-light" in {package["name"] for package in record["packages"]}
    assert [step["name"] for step in record["steps"]] == [
        "import", "clone", "packages", "sync", "clean", "motd", "snapshot", "check", "emit", "destroy",
    ]  # fmt: skip


def test_other_tools_read_it_and_its_web_server_accepts_its_configuration(
    image: dict[str, Any], require: Callable[..., None], tmp_path: Path
) -> None:
    require("skopeo", "umoci")
    (file,) = image["files"]
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    for command in (
        ["skopeo", "copy", "-q", f"oci-archive:{file['path']}", f"oci:{layout}:sample"],
        ["umoci", "unpack", "--image", f"{layout}:sample", os.fspath(bundle)],
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    root = bundle / "rootfs"
    page = SAMPLE / "proto/var/www/html/index.html"
    assert (root / "var/www/html/index.html").read_bytes() == page.read_bytes()
    assert not (root / "usr/sbin/policy-rc.d").exists()
    assert not list((root / "var/cache/apt/archives").glob("*.deb"))
    tried = subprocess.run(
        ["unshare", "--mount", "--propagation=slave", "--pid", "--fork", "--net", "chroot", root, "/usr/sbin/nginx", "-t"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert tried.returncode == 0, tried.stderr
    assert "test is successful" in tried.stderr


def test_a_second_build_says_what_it_reused(image: dict[str, Any]) -> None:
    again = build(Path(image["manifest"]).parent)
    assert {step["state"] for step in again["steps"]} == {"reuse"}
    assert again["uuid"] == image["uuid"]
    assert again["files"] == image["files"]


def test_a_changed_page_reuses_the_packages(image: dict[str, Any], tmp_path: Path) -> None:
    proto = tmp_path / "proto"
    subprocess.run(["cp", "-a", SAMPLE / "proto", proto], check=True)
    (proto / "var/www/html/index.html").write_text("<p>changed</p>\n")
    answer = build(tmp_path / "bits", proto=proto)
    states = {step["name"]: step["state"] for step in answer["steps"]}
    assert (states["import"], states["packages"], states["sync"]) == ("reuse", "reuse", "run")
    assert answer["tree_digest"] != image["tree_digest"]


def test_the_same_moment_gives_the_same_bytes_from_a_cold_start(
    image: dict[str, Any], tmp_path: Path
) -> None:
    """Both builds install the packages anew: nothing of one is in the other."""
    first, second = (
        build(tmp_path / name, "--no-cache", SOURCE_DATE_EPOCH="1700000000") for name in ("one", "two")
    )
    assert {step["name"]: step["state"] for step in second["steps"]}["packages"] == "run"
    assert first["files"][0]["sha256"] == second["files"][0]["sha256"]
    assert first["tree_digest"] == second["tree_digest"]
    assert Path(first["manifest"]).read_bytes() == Path(second["manifest"]).read_bytes()
