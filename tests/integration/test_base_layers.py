"""Images made from a base have its layers, byte for byte; a registry gets each of them once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_images import (
    LIMIT,
    Agent,
    Made,
    agent,
    build,
    builder,
    config_of,
    exported,
    sample,
    tree_of,
)
from tests.servers.fixtures import Registry, start_registry

__all__ = ["agent", "builder", "exported"]


def manifest_of(archive: Path) -> dict[str, Any]:
    with tarfile.open(archive) as tar:

        def read(name: str) -> Any:
            stream = tar.extractfile(name)
            assert stream is not None
            return json.load(stream)

        digest = read("index.json")["manifests"][0]["digest"]
        found: dict[str, Any] = read(f"blobs/sha256/{digest[7:]}")
        return found


def layers_of(archive: Path) -> list[str]:
    return [layer["digest"] for layer in manifest_of(archive)["layers"]]


def archive_of(made: Made) -> Path:
    return next(made.folder.glob("*.oci.tar"))


def base_layers(top: Path) -> list[str]:
    index = json.loads((top / "by-buildah/index.json").read_bytes())
    manifest = json.loads(
        (top / "by-buildah/blobs/sha256" / index["manifests"][0]["digest"][7:]).read_bytes()
    )
    return [layer["digest"] for layer in manifest["layers"]]


def test_a_child_has_the_layers_and_the_history_of_its_base(
    builder: Agent, exported: tuple[Path, Callable[..., None]]
) -> None:
    top, run = exported
    theirs = base_layers(top)
    assert len(theirs) >= 3
    run("skopeo", "copy", f"oci:{top}/by-buildah:v1", f"oci-archive:{top}/by-skopeo.tar:v1")
    run("skopeo", "copy", f"oci:{top}/by-buildah:v1", f"docker-archive:{top}/for-docker.tar:made:v1")
    made = build(builder, "child", f"oci:{top}/by-buildah:v1", {"srv/x": "1\n"})
    ours = layers_of(archive_of(made))
    assert ours[:-1] == theirs
    config = config_of(made)
    assert [row.get("created_by") for row in config["history"]][-1] == "buildstep"
    assert len([row for row in config["history"] if not row.get("empty_layer")]) == len(ours)
    assert any("busybox rm /opt/dir/gone" in row.get("created_by", "") for row in config["history"])
    # What others unpack of it is the tree that was built.
    layout = top / "child"
    run("skopeo", "copy", f"oci-archive:{archive_of(made)}:child:1.0.0", f"oci:{layout}:child")
    assert tree_of(builder, f"oci:{layout}:child") == made.record["tree_digest"]
    run("umoci", "unpack", "--image", f"{layout}:child", f"{top}/child-bundle")
    root = top / "child-bundle/rootfs"
    assert (root / "srv/x").read_text() == "1\n"
    assert sorted(os.listdir(root / "opt/dir")) == ["also", "new"]
    # The same image from archives: one keeps them compressed, docker's are plain tars.
    assert (
        layers_of(archive_of(build(builder, "two", f"oci:{top}/by-skopeo.tar", {"srv/x": "1\n"})))[:-1]
        == theirs
    )
    plain = build(builder, "three", f"docker-archive:{top}/for-docker.tar", {"srv/x": "1\n"})
    diff_ids = config["rootfs"]["diff_ids"][:-1]
    assert layers_of(archive_of(plain))[:-1] == diff_ids
    assert config_of(plain)["rootfs"]["diff_ids"][:-1] == diff_ids
    # An edit, and a build without anything kept, have them as well.
    (builder.top / "proto-child/srv/x").write_text("2\n")
    again = build(builder, "child", f"oci:{top}/by-buildah:v1", {"srv/x": "2\n"})
    assert layers_of(archive_of(again))[:-1] == theirs
    assert layers_of(archive_of(again))[-1] != ours[-1]
    fresh = build(builder, "child", f"oci:{top}/by-buildah:v1", {"srv/x": "2\n"}, "--no-cache")
    assert layers_of(archive_of(fresh)) == layers_of(archive_of(again))


def test_layers_stay_with_their_image_and_go_with_it(
    builder: Agent, exported: tuple[Path, Callable[..., None]]
) -> None:
    top, _ = exported
    ref = f"oci:{top}/by-buildah:v1"
    theirs = base_layers(top)
    made = build(builder, "child", ref, {"srv/x": "1\n"})
    blobs = builder.pool / "state/blobs"

    def kept() -> dict[str, Path]:
        found = {}
        for path in blobs.glob("*.json"):
            row = json.loads(path.read_bytes())
            if row["key"].startswith("base layer "):
                found[f"sha256:{row['digest']}"] = path.with_suffix("")
        return found

    assert kept().keys() == set(theirs)
    builder.run("cache", "prune", "--max-bytes", "0")
    assert kept().keys() == set(theirs), "they cannot be made again here"
    # One is damaged on the disk: the image is imported again, and the child is what it was.
    data = bytearray(kept()[theirs[0]].read_bytes())
    data[len(data) // 2] ^= 1
    kept()[theirs[0]].write_bytes(data)
    again = build(builder, "other", ref, {"srv/x": "1\n"})
    assert layers_of(archive_of(again))[:-1] == theirs
    # One is gone.
    kept()[theirs[1]].unlink()
    third = build(builder, "third", ref, {"srv/x": "1\n"})
    assert layers_of(archive_of(third))[:-1] == theirs
    assert builder.left() == []
    assert made.record["tree_digest"] == third.record["tree_digest"]
    uuid = json.loads(builder.run("image", "show", ref))["uuid"]
    builder.run("cache", "prune", "--max-bytes", "0")
    builder.run("image", "delete", uuid)
    assert kept() == {}


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Registry]:
    (tmp_path / "registry").mkdir()
    yield from start_registry(tmp_path / "registry", access=True)


def uploads(server: Registry) -> list[str]:
    """The digests of blobs that were sent, in their order."""
    log = (server.storage.parent / "registry.log").read_text(errors="replace")
    return re.findall(r'"PUT /v2/\S*/blobs/uploads/\S*digest=(\S+?)(?:&\S*)? HTTP[^"]*" 201', log)


def digests_of(archive: Path) -> set[str]:
    found = manifest_of(archive)
    return {found["config"]["digest"], *(layer["digest"] for layer in found["layers"])}


@pytest.mark.parametrize("from_registry", [True, False])
def test_a_registry_gets_each_blob_once(builder: Agent, logged: Registry, from_registry: bool) -> None:
    base = sample(builder)
    builder.run("image", "publish", str(base.folder), f"docker://{logged.host}/bases/tiny")
    ref = f"docker://{logged.host}/bases/tiny:1.0.0" if from_registry else f"oci:{archive_of(base)}"
    child = build(builder, "child", ref, {"srv/www/more.html": "more\n"})
    assert layers_of(archive_of(child))[:-1] == layers_of(archive_of(base))
    assert config_of(base)["history"][0]["created_by"] == "buildstep image import tar:base.tgz"
    builder.run("image", "publish", str(child.folder), f"docker://{logged.host}/apps/child")
    sent = [digest.replace("%3A", ":") for digest in uploads(logged)]
    assert sorted(sent) == sorted(digests_of(archive_of(base)) | digests_of(archive_of(child)))
    seen = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", f"docker://{logged.host}/apps/child:1.0.0"],
        capture_output=True, check=True, timeout=LIMIT,
    )  # fmt: skip
    assert json.loads(seen.stdout)["Layers"] == layers_of(archive_of(child))
