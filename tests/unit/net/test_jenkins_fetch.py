"""Image files of a Jenkins build, verified by its manifests and records."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from buildstep.errors import CIError
from buildstep.net.jenkins import JenkinsBuild
from buildstep.net.jenkins_fetch import fetch
from tests.servers.jenkins import FakeJenkins, Job, Run
from tests.unit.net.test_jenkins import client, jenkins

__all__ = ["jenkins"]

IMAGE = bytes(range(256)) * 5000


def artifacts(image: bytes = IMAGE, *, served: bytes | None = None) -> dict[str, bytes]:
    """What a build of ours archives, in folders as Jenkins keeps them."""
    sums = {"size": len(image), "sha1": hashlib.sha1(image).hexdigest()}
    manifest = {"name": "hello", "version": "1.0", "files": [{**sums, "compression": "none"}]}
    sha256 = hashlib.sha256(image).hexdigest()
    record = {"artifacts": [{"path": "/agent/bits/hello-1.0.oci.tar", **sums, "sha256": sha256}]}
    return {
        "bits/hello/hello-1.0.imgmanifest": json.dumps(manifest).encode(),
        "bits/hello/hello-1.0.oci.tar": image if served is None else served,
        "bits/hello/hello-1.0.buildrecord.json": json.dumps(record).encode(),
        "report/index.html": b"<html>",
    }


def built(jenkins: FakeJenkins, files: dict[str, bytes], result: str | None = "SUCCESS") -> JenkinsBuild:
    jenkins.jobs["app"] = Job(runs={3: Run(3, log=[], result=result, artifacts=files)})
    return JenkinsBuild(job="app", number=3)


def test_fetch_checks_files_against_manifest_and_record(jenkins: FakeJenkins, tmp_path: Path) -> None:
    build = built(jenkins, artifacts())
    jenkins.faults = [("oci.tar", "cut"), ("oci.tar", "drop"), ("oci.tar", "502")]
    files = {Path(file.path).name: file for file in fetch(client(jenkins), build, tmp_path)}
    assert files["hello-1.0.oci.tar"].checked_by == ("hello-1.0.buildrecord.json", "hello-1.0.imgmanifest")
    assert (tmp_path / "hello-1.0.oci.tar").read_bytes() == IMAGE
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_fetch_takes_what_a_pattern_names_and_what_vouches_for_it(
    jenkins: FakeJenkins, tmp_path: Path
) -> None:
    files = fetch(client(jenkins), built(jenkins, artifacts()), tmp_path, patterns=["*/*.oci.tar"])
    assert "index.html" not in {Path(file.path).name for file in files}
    assert len(files) == 3


@pytest.mark.parametrize(
    "case", ["bytes", "short", "missing", "unvouched", "no manifest", "not json", "two", "path"]
)
def test_fetch_leaves_nothing_of_what_is_wrong(jenkins: FakeJenkins, tmp_path: Path, case: str) -> None:
    files = artifacts()
    image = "bits/hello/hello-1.0.oci.tar"
    match case:
        case "bytes":
            files[image] = IMAGE[:-1] + b"X"
        case "short":
            files[image] = IMAGE[:-1]
        case "missing":
            del files[image]
        case "unvouched":
            files["bits/other-1.0.tar.zst"] = b"?"
        case "no manifest":
            files = {image: IMAGE}
        case "not json":
            files["bits/hello/hello-1.0.imgmanifest"] = b"<html>"
        case "two":
            files["bits/again/hello-1.0.oci.tar"] = IMAGE
        case "path":
            files["bits/../../etc/x.tar"] = b"?"
    (tmp_path / "hello-1.0.oci.tar").write_bytes(b"old")
    with pytest.raises(CIError):
        fetch(client(jenkins), built(jenkins, files), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["hello-1.0.oci.tar"]
    assert (tmp_path / "hello-1.0.oci.tar").read_bytes() == b"old"


def test_fetch_of_a_build_that_failed_has_to_be_asked_for(jenkins: FakeJenkins, tmp_path: Path) -> None:
    build = built(jenkins, artifacts(), result="FAILURE")
    with pytest.raises(CIError, match="ended as FAILURE"):
        fetch(client(jenkins), build, tmp_path)
    assert fetch(client(jenkins), build, tmp_path, any_result=True)
