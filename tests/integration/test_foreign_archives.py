"""Archives as other tools write them, compared with what those tools make of them."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import Path

from buildstep.images.interface import SourceImage
from buildstep.images.sources import parse
from tests.integration.conftest import demand
from tests.servers.fixtures import Notes, Registry, bus, registry
from tests.servers.layouts import context, make_layout, make_saved
from tests.unit import trees
from tests.unit.formats.test_unpack import directory, link, symlink, tar

__all__ = ["bus", "registry"]

AMD = {"BUILDSTEP_PLATFORM": "linux/amd64"}


def run(*argv: str | Path) -> None:
    done = subprocess.run(
        [os.fspath(a) for a in argv], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def fetched(locator: str, folder: Path, bus: Notes) -> tuple[SourceImage, Path]:
    into = folder / "ours"
    into.mkdir(parents=True)
    found = parse(locator, environ=AMD)
    assert found is not None
    return found[0].fetch(found[1], into, context(folder / "cache", bus)), into


def shape(top: Path) -> dict[str, object]:
    """What a directory holds: content, link targets, and which files are one."""
    found: dict[str, object] = {}
    for path, entry in trees.scanned(top).items():
        what = entry.target if entry.kind == "l" else entry.sha256
        found[os.fsdecode(path)] = (entry.kind, what, entry.first)
    return found


BASE = tar(
    *(directory(name) for name in ("usr", "usr/lib", "usr/lib/sub", "usr/bin")),
    ("usr/lib/a", b"a"),
    ("usr/lib/sub/x", b"x"),
    ("usr/bin/sh", b"sh"),
    symlink("lib", "usr/lib"),
    symlink("bin", "/usr/bin"),
    symlink("opt", "no/such"),
)
UPPER = tar(
    ("/ko-app/app", b"go"),
    ("lib/new", b"new"),
    ("//bin/./tool", b"tool"),
    link("lib/again", "/bin/sh"),
    ("lib/.wh.a", b""),
    ("lib/sub/.wh..wh..opq", b""),
    ("lib/sub/y", b"y"),
    ("opt/made/z", b"z"),
    symlink("etc", "./usr/share/../etc"),
    ("etc/motd", b"hi"),
)


def test_names_and_links_are_what_umoci_makes_of_them(tmp_path: Path, bus: Notes) -> None:
    demand("root", "umoci")
    make_layout(tmp_path / "layout", [gzip.compress(BASE), gzip.compress(UPPER)])
    run("umoci", "unpack", "--image", f"{tmp_path}/layout:latest", tmp_path / "bundle")
    _, into = fetched(f"oci:{tmp_path}/layout", tmp_path, bus)
    assert shape(into) == shape(tmp_path / "bundle/rootfs")


def test_a_layer_of_umoci_insert_has_no_end(tmp_path: Path, bus: Notes, registry: Registry) -> None:
    demand("root", "umoci", "skopeo")
    image = f"{tmp_path}/layout:v1"
    (tmp_path / "f").write_text("hello\n")
    run("umoci", "init", "--layout", tmp_path / "layout")
    run("umoci", "new", "--image", image)
    run("umoci", "insert", "--image", image, tmp_path / "f", "/x/f")
    run("umoci", "insert", "--image", image, "--opaque", tmp_path, "/y")
    found, into = fetched(f"oci:{image}", tmp_path / "t", bus)
    assert (into / "x/f").read_text() == "hello\n"
    assert found.entries is not None
    assert b"y/f" in found.entries
    pushed = f"docker://{registry.host}/unpadded:v1"
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{image}", pushed)
    _, pulled = fetched(pushed, tmp_path / "p", bus)
    assert shape(pulled) == shape(into)


def test_archives_of_skopeo(tmp_path: Path, bus: Notes) -> None:
    """A layout, as an archive for `docker load` and one of OCI, plain and compressed: one image."""
    demand("root", "skopeo", "zstd")
    make_layout(tmp_path / "layout", [gzip.compress(BASE), gzip.compress(UPPER)])
    source = f"oci:{tmp_path}/layout:latest"
    docker, oci = tmp_path / "docker.tar", tmp_path / "oci.tar"
    run("skopeo", "copy", source, f"docker-archive:{docker}:example.com/ns/app:1.2")
    run("skopeo", "copy", source, f"oci-archive:{oci}:v1")
    run("zstd", "-q", docker, oci)
    _, ours = fetched(source, tmp_path / "first", bus)
    for number, locator in enumerate(
        (
            f"docker-archive:{docker}",
            f"docker-archive:{docker}:example.com/ns/app:1.2",
            f"docker-archive:{docker}.zst:example.com/ns/app:1.2",
            f"oci:{oci}:v1",
            f"oci:{oci}.zst",
        )
    ):
        image, into = fetched(locator, tmp_path / str(number), bus)
        assert shape(into) == shape(ours), locator
        assert image.manifest["name"] == ("app" if "docker" in locator else "oci")


def test_archives_of_docker_save_of_ours_are_what_skopeo_reads(tmp_path: Path) -> None:
    """So that the stand-ins of the unit tests are what tools take for one."""
    demand("skopeo")
    layers = {"a:1": [BASE], "b:2": [BASE, UPPER]}
    for style in ("legacy", "docker", "skopeo", "kaniko", "jib"):
        path = make_saved(tmp_path / f"{style}.tar", layers, style=style)
        run("skopeo", "inspect", f"docker-archive:{path}:b:2")
