"""Push to and pull from a real registry, with and without a password; what other tools say of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from buildstep.errors import ExitCode, ImageError, PublishError
from buildstep.images.interface import SourceImage
from buildstep.images.publishers import Bundle, Published, PublishOptions, publish
from buildstep.images.sources.docker import Docker
from buildstep.images.sources.oci import Oci
from buildstep.tree.entry import tree_digest
from tests.servers.fixtures import LIMITS, Notes, Registry, bus, locked_registry, registry
from tests.servers.layouts import context, layer, make_layout, pack
from tests.unit.net.test_imgapi import UUID

__all__ = ["bus", "locked_registry", "registry"]

AMD = {"BUILDSTEP_PLATFORM": "linux/amd64"}
LAYERS = [
    layer({"etc/": b"", "etc/a": b"1", "etc/b": os.urandom(2 << 20), "opt/": b"", "opt/x": b"3"}),
    layer({"etc/.wh.a": b"", "etc/c": b"4"}),
    layer({"opt/.wh..wh..opq": b"", "opt/y": b"5"}),
]


def no_hash(_: Path) -> str:
    raise AssertionError


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def bundle(folder: Path, layers: list[bytes] = LAYERS, **options: list[str]) -> Bundle:
    folder.mkdir(parents=True, exist_ok=True)
    make_layout(folder / "layout", layers, platforms=options.get("platforms", []))
    path = pack(folder / "layout", folder / "hello-1.0.0.oci.tar")
    data = path.read_bytes()
    manifest = {
        "v": 2, "uuid": UUID, "owner": "00000000-0000-0000-0000-000000000000", "name": "hello",
        "version": "1.0.0+b1", "type": "other", "os": "linux", "published_at": "2026-01-02T03:04:05Z",
        "files": [{"size": len(data), "compression": "none", "sha1": hashlib.sha1(data).hexdigest()}],
    }  # fmt: skip
    (folder / "hello-1.0.0.imgmanifest").write_text(json.dumps(manifest))
    return Bundle(manifest=folder / "hello-1.0.0.imgmanifest", artifacts=(path,))


def push(made: Bundle, target: str, bus: Notes, **environ: str) -> Published:
    return publish(made, target, options=PublishOptions(environ=environ, limits=LIMITS), bus=bus)


def pull(locator: str, folder: Path, bus: Notes, **environ: str) -> tuple[SourceImage, Path]:
    source = Docker({**AMD, **environ}, {"attempts": 2, "backoff": 0.05, "response": 5, "idle": 5})
    into = folder / "tree"
    into.mkdir(parents=True)
    source.identify(locator, no_hash)
    return source.fetch(locator, into, context(folder / "cache", bus)), into


def password(found: Registry) -> dict[str, str]:
    return {"BUILDSTEP_REGISTRY_USER": found.user, "BUILDSTEP_REGISTRY_PASSWORD": found.password}


@pytest.fixture(params=["open", "locked"])
def server(request: pytest.FixtureRequest) -> Registry:
    name = "registry" if request.param == "open" else "locked_registry"
    found: Registry = request.getfixturevalue(name)
    return found


def test_there_and_back(server: Registry, tmp_path: Path, bus: Notes) -> None:
    made = bundle(tmp_path)
    environ = password(server) if server.user else {}
    target = f"docker://{server.host}/ns/hello"
    done = push(made, target, bus, **environ)
    assert done.state == "published"
    assert push(made, target, bus, **environ).state == "already"

    skopeo = [tool("skopeo"), "inspect", "--tls-verify=false"]
    creds = [f"--creds={server.user}:{server.password}"] if server.user else []
    seen = subprocess.run(
        [*skopeo, *creds, f"{target}:1.0.0-b1"], capture_output=True, check=True, timeout=30
    )
    told = json.loads(seen.stdout)
    assert told["Digest"] == done.objects["1.0.0-b1"]
    assert told["Layers"] == ["sha256:" + hashlib.sha256(data).hexdigest() for data in LAYERS]

    fetched, tree = pull(f"//{server.host}/ns/hello:1.0.0-b1", tmp_path / "pull", bus, **environ)
    names = sorted(str(p.relative_to(tree)) for p in tree.rglob("*") if p.is_file())
    assert names == ["etc/b", "etc/c", "opt/y"]
    assert fetched.inputs["digest"] == told["Digest"]
    local = tmp_path / "local"
    local.mkdir()
    from_file = Oci(AMD).fetch(str(made.artifacts[0]), local, context(tmp_path / "cache", bus))
    assert from_file.entries is not None
    assert fetched.entries is not None
    assert tree_digest(from_file.entries) == tree_digest(fetched.entries)
    # The layers are the store's to take.
    taken = [file.place.path.read_bytes() for file in fetched.layers]
    assert taken == LAYERS


def test_by_digest_and_platform(registry: Registry, tmp_path: Path, bus: Notes) -> None:
    made = bundle(tmp_path, platforms=["linux/arm64/v8", "linux/amd64"])
    done = push(made, f"docker://{registry.host}/multi:v1", bus)
    found, _ = pull(f"//{registry.host}/multi@{done.objects['v1']}", tmp_path / "amd", bus)
    assert found.config["architecture"] == "amd64"
    other, _ = pull(f"//{registry.host}/multi:v1", tmp_path / "arm", bus, BUILDSTEP_PLATFORM="linux/arm64")
    assert other.config["architecture"] == "arm64"


def test_a_tag_does_not_move_by_itself(registry: Registry, tmp_path: Path, bus: Notes) -> None:
    target = f"docker://{registry.host}/moving:v1"
    push(bundle(tmp_path / "a"), target, bus)
    other = bundle(tmp_path / "b", [layer({"x": b"y"})])
    with pytest.raises(PublishError, match="is another image already") as caught:
        push(other, target, bus)
    assert caught.value.code == ExitCode.PUBLISH
    options = PublishOptions(limits=LIMITS, replace=True)
    assert publish(other, target, options=options, bus=bus).state == "published"


def test_wrong_and_no_password(locked_registry: Registry, tmp_path: Path, bus: Notes) -> None:
    target = f"docker://{locked_registry.host}/secret"
    with pytest.raises(PublishError, match="unauthorized") as caught:
        push(bundle(tmp_path), target, bus)
    assert "docker login" in caught.value.hint
    wrong = {"BUILDSTEP_REGISTRY_USER": "ci", "BUILDSTEP_REGISTRY_PASSWORD": "not it"}
    with pytest.raises(PublishError, match="unauthorized") as caught:
        push(bundle(tmp_path), target, bus, **wrong)
    assert "not it" not in f"{caught.value}{caught.value.detail}{caught.value.hint}"
    with pytest.raises(ImageError, match="unauthorized"):
        pull(f"//{locked_registry.host}/secret:v1", tmp_path / "pull", bus)


def test_no_such_image(registry: Registry, tmp_path: Path, bus: Notes) -> None:
    with pytest.raises(ImageError, match="there is no image"):
        pull(f"//{registry.host}/nothing:v1", tmp_path, bus)
    with pytest.raises(ImageError, match="Connection refused"):
        pull("//127.0.0.1:1/nothing:v1", tmp_path / "b", bus)


def test_a_damaged_layer_is_found(registry: Registry, tmp_path: Path, bus: Notes) -> None:
    """The registry's own file changes behind its back."""
    layers = [layer({"f": os.urandom(300000)}), layer({"g": b"x"})]
    push(bundle(tmp_path, layers), f"docker://{registry.host}/damaged:v1", bus)
    hexa = hashlib.sha256(layers[0]).hexdigest()
    blob = next(registry.storage.rglob(f"{hexa}/data"))
    wrong = bytearray(blob.read_bytes())
    wrong[100000] ^= 1
    blob.write_bytes(wrong)
    with pytest.raises(ImageError):
        pull(f"//{registry.host}/damaged:v1", tmp_path / "pull", bus)


def test_what_other_tools_export(registry: Registry, tmp_path: Path, bus: Notes) -> None:
    """buildah makes an image with whiteouts and hard links; skopeo and umoci hand it on."""
    if os.geteuid() != 0:
        pytest.skip("buildah needs root here")
    here = tmp_path / "context"
    here.mkdir()
    (here / "one").write_text("1")
    (here / "two").write_text("2")
    (here / "Dockerfile").write_text("FROM scratch\nCOPY one two /etc/\nCOPY one /opt/dir/\n")
    store = ["--root", f"{tmp_path}/st", "--runroot", f"{tmp_path}/run", "--storage-driver", "vfs"]
    buildah = [tool("buildah"), *store]

    def run(*argv: str) -> None:
        subprocess.run(argv, check=True, capture_output=True, timeout=90, cwd=here)

    try:
        run(*buildah, "bud", "--isolation", "chroot", "--layers", "-t", "made", ".")
        name = f"{registry.host}/other/made:v1"
        run(*buildah, "push", "--tls-verify=false", "made", f"docker://{name}")
        run(*buildah, "push", "--format", "docker", "--tls-verify=false", "made", f"docker://{name}-docker")
        run(*buildah, "push", "made", f"oci:{tmp_path}/by-buildah:v1")
        run(
            tool("skopeo"),
            "copy",
            "--src-tls-verify=false",
            f"docker://{name}",
            f"oci-archive:{tmp_path}/by-skopeo.tar:v1",
        )
        shutil.copytree(tmp_path / "by-buildah", tmp_path / "by-umoci")
        image = f"{tmp_path}/by-umoci:v1"
        run(tool("umoci"), "unpack", "--image", image, f"{tmp_path}/bundle")
        (tmp_path / "bundle/rootfs/etc/two").unlink()
        os.link(tmp_path / "bundle/rootfs/etc/one", tmp_path / "bundle/rootfs/etc/linked")
        run(tool("umoci"), "repack", "--image", image, f"{tmp_path}/bundle")
    finally:
        subprocess.run([*buildah, "rmi", "-a", "-f"], capture_output=True, timeout=60, check=False)

    digests: set[str] = set()
    for locator in (f"{tmp_path}/by-buildah:v1", f"{tmp_path}/by-skopeo.tar:v1"):
        into = tmp_path / f"tree{len(digests)}-{Path(locator).name.partition(':')[0]}"
        into.mkdir()
        found = Oci({}).fetch(locator, into, context(tmp_path / "cache", bus))
        assert found.entries is not None
        digests.add(tree_digest(found.entries))
    for tag in ("v1", "v1-docker"):
        found, _ = pull(f"//{registry.host}/other/made:{tag}", tmp_path / tag, bus)
        assert found.entries is not None
        digests.add(tree_digest(found.entries))
    assert len(digests) == 1

    into = tmp_path / "umoci-tree"
    into.mkdir()
    found = Oci({}).fetch(image, into, context(tmp_path / "cache", bus))
    assert found.entries is not None
    assert b"etc/two" not in found.entries
    assert (into / "etc/one").stat().st_ino == (into / "etc/linked").stat().st_ino
