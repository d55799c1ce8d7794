"""The contract of base-image sources: every row of SOURCES is held to it."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from buildstep.errors import ImageError, SpecError
from buildstep.events import Bus, Event, Gauge, Note, Progress
from buildstep.files import open_storage, refs
from buildstep.files.content import ContentStore
from buildstep.files.refs import Ref
from buildstep.files.session import Session
from buildstep.formats.oci.spec import Descriptor, OciImage
from buildstep.images import sources
from buildstep.images.interface import Identity, Source
from buildstep.images.sources import SOURCES, docker, parse
from buildstep.net.errors import HttpError
from buildstep.system.digest import sha256_file
from buildstep.tree.hashing import hash_entries, spread_digests
from buildstep.tree.scan import scan
from tests.servers import layouts
from tests.servers.layouts import make_saved
from tests.servers.registry import RegistryServer
from tests.unit.images.test_store import archive, manifest_of

DEAD = "127.0.0.1:1"
BRIEF = {"connect": 1, "response": 1, "attempts": 1}


def _tar(folder: Path, content: str) -> str:
    return archive(folder / "base.tar", name=content).partition(":")[2]


def _zfs(folder: Path, content: str) -> str:
    file = folder / "base.zfs"
    file.write_bytes(content.encode())
    return f"{file},{manifest_of(file)}"


def _oci(folder: Path, content: str) -> str:
    """A layout with an image of one small layer."""
    top = folder / "layout"
    (top / "blobs/sha256").mkdir(parents=True, exist_ok=True)

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (top / "blobs/sha256" / digest).write_bytes(data)
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": f"sha256:{digest}",
            "size": len(data),
        }

    layer = blob(Path(_tar(folder, content)).read_bytes(), "layer.v1.tar")
    diffs = {"type": "layers", "diff_ids": [layer["digest"]]}
    config = {"architecture": "amd64", "os": "linux", "rootfs": diffs}
    manifest = {
        "schemaVersion": 2,
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": [layer],
    }
    index = {"schemaVersion": 2, "manifests": [blob(json.dumps(manifest).encode(), "manifest.v1+json")]}
    (top / "index.json").write_text(json.dumps(index))
    (top / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return str(top)


def _docker_archive(folder: Path, content: str) -> str:
    layer = Path(_tar(folder, content)).read_bytes()
    return str(make_saved(folder / "saved.tar", {"base:1": [layer]}))


def _files(folder: Path, content: str) -> str:
    (folder / content).mkdir(parents=True, exist_ok=True)
    (folder / content / "name").write_text(content)
    url = f"dir:{folder}/store-{content}"
    return f"{url}#{recorded(folder / content, url, 'base/1')}"


def recorded(root: Path, url: str, ref: str, **notes: object) -> str:
    """Record a tree in a store under a ref; the ref."""
    store = ContentStore(open_storage(url))
    store.create()
    entries = scan(root)
    hash_entries(root, entries.values())
    spread_digests(entries)
    for entry in entries.values():
        entry.mtime = 1_700_000_000_000_000_000
    with Session(store, "test") as session:
        for path, entry in entries.items():
            if entry.kind == "f":
                session.put((root / os.fsdecode(path)).read_bytes())
        stored = session.put_list(entries)
        before = refs.read(store.storage, ref)
        session.set_ref(Ref(name=ref, list=stored.digest, tree=stored.tree, notes=notes), before)
    return ref


HERE: dict[str, Callable[[Path, str], str]] = {
    "scratch": lambda _folder, _content: "",
    "tar": _tar,
    "oci": _oci,
    "docker-archive": _docker_archive,
    "docker": lambda _folder, content: f"//{DEAD}/base@sha256:{content.encode().hex():0>64}",
    "files": _files,
    "zfs": _zfs,
    "mmdebstrap": lambda _folder, content: f"bookworm?include={content}",
}
"""A locator of something that is there, by scheme; its content is that of the text."""

MISSING = {
    "tar": "/missing/base.tar",
    "oci": "/missing/base.oci.tar",
    "docker-archive": "/missing/base.docker.tar:base:1",
    "docker": f"//{DEAD}/missing:1",
    "files": "dir:/missing/store#base/1",
    "zfs": "/missing/base.zfs",
    "mmdebstrap": "bookworm?vairant=x",
}
"""A locator of something that is not there; an empty tree always is."""


def source(scheme: str, environ: dict[str, str] | None = None) -> Source:
    found = parse(f"{scheme}:", environ=environ or {"BUILDSTEP_PLATFORM": "linux/amd64"}, limits=BRIEF)
    assert found is not None
    return found[0]


def test_every_row_has_its_examples() -> None:
    assert set(HERE) == set(SOURCES)
    assert set(MISSING) == set(SOURCES) - {"scratch"}


@pytest.mark.parametrize("scheme", SOURCES)
class TestEverySource:
    def identity(self, scheme: str, folder: Path, content: str) -> Identity:
        folder.mkdir(exist_ok=True)
        return source(scheme).identify(HERE[scheme](folder, content), sha256_file)

    def test_is_named_by_its_row(self, scheme: str) -> None:
        assert source(scheme).scheme == scheme

    def test_the_same_input_has_the_same_identity(self, scheme: str, tmp_path: Path) -> None:
        first = self.identity(scheme, tmp_path, "one")
        assert self.identity(scheme, tmp_path, "one") == first
        assert first.key.startswith(scheme)
        assert first.label.partition(":")[0] in (scheme, DEAD.partition(":")[0])

    def test_other_content_has_another_identity(self, scheme: str, tmp_path: Path) -> None:
        first, second = (self.identity(scheme, tmp_path, content) for content in ("one", "two"))
        assert (first.key == second.key) == (scheme == "scratch")

    def test_the_place_of_a_file_does_not_matter(self, scheme: str, tmp_path: Path) -> None:
        first, second = (self.identity(scheme, tmp_path / name, "one") for name in ("a", "b"))
        assert first.key == second.key

    def test_identifying_changes_nothing(self, scheme: str, tmp_path: Path) -> None:
        locator = HERE[scheme](tmp_path, "one")
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        source(scheme).identify(locator, sha256_file)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("scheme", MISSING)
def test_what_is_missing_is_an_image_error_that_names_it(scheme: str) -> None:
    with pytest.raises(ImageError) as caught:
        source(scheme).identify(MISSING[scheme], sha256_file)
    named = {"docker": DEAD, "mmdebstrap": "mmdebstrap:bookworm"}.get(scheme, "base")
    assert named in caught.value.message


@pytest.mark.parametrize("scheme", ["tar", "oci", "docker-archive", "zfs"])
def test_a_file_that_cannot_even_be_looked_for_is_an_image_error(scheme: str) -> None:
    """Path.is_dir and Path.exists raise for such a name, and for a directory that is closed to us."""
    with pytest.raises(ImageError, match="x" * 255):
        source(scheme).identify("x" * 300, sha256_file)


def test_a_reference_without_a_scheme_is_for_the_store() -> None:
    assert parse("base@1") is None
    assert parse("aaaaaaaa-0000-4000-8000-000000000001") is None


def test_an_unknown_scheme_gets_a_hint() -> None:
    with pytest.raises(SpecError) as caught:
        parse("dokcer://x/y")
    assert "did you mean docker://x/y?" in caught.value.detail
    with pytest.raises(SpecError) as caught:
        parse("qqq:x")
    assert "scratch, tar, oci, docker-archive, docker, files, zfs, mmdebstrap" in caught.value.detail


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("debian:bookworm", "did you mean mmdebstrap:bookworm or docker://debian:bookworm?"),
        ("debian:12-slim", "did you mean mmdebstrap:bookworm or docker://debian:12-slim?"),
        ("debian", "did you mean mmdebstrap:trixie or docker://debian?"),
        ("ubuntu:latest", "did you mean mmdebstrap:noble or docker://ubuntu:latest?"),
        ("nginx:1.27", "did you mean docker://nginx:1.27?"),
        ("library/nginx", "did you mean docker://library/nginx?"),
        ("ghcr.io/ko-build/ko:v1", "did you mean docker://ghcr.io/ko-build/ko:v1?"),
        ("localhost:5000/app", "did you mean docker://localhost:5000/app?"),
        ("https://registry.example/app:1", "did you mean docker://registry.example/app:1?"),
        ("bookworm", "did you mean mmdebstrap:bookworm?"),
        ("tra:FILE", "did you mean tar:FILE?"),
        ("dokcer://x/y", "did you mean docker://x/y?"),
        ("nonsense", ""),
        ("base@1", ""),
        ("Not An Image:x", ""),
    ],
)
def test_what_a_reference_was_meant_to_be(ref: str, said: str) -> None:
    assert sources.near_miss(ref) == said
    for word in said.removeprefix("did you mean ").removesuffix("?").split(" or "):
        assert not word or parse(word) is not None, "what is suggested is understood"


def test_a_file_without_a_scheme_gets_the_one_of_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with tarfile.open("base.tar", "w"):
        pass
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout/oci-layout").touch()
    (tmp_path / "odd:x").write_text("nothing that is known")
    assert sources.near_miss("base.tar") == "did you mean tar:base.tar?"
    assert sources.near_miss("layout") == "did you mean oci:layout?"
    assert sources.near_miss("odd:x") == ""


def test_a_source_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    points = [
        metadata.EntryPoint("broken", "no.such.module:X", "buildstep.sources"),
        metadata.EntryPoint("plain", "buildstep.images.sources.oci:Oci", "buildstep.sources"),
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points)
    heard: list[Event] = []
    found = parse("plain:x", bus=Bus(heard.append))
    assert found is not None
    assert (found[0].scheme, found[1]) == ("oci", "x")
    (note,) = [event.text for event in heard if isinstance(event, Note)]
    assert "'broken'" in note


def test_a_layer_whose_download_does_not_begin_fails_who_reads_it(tmp_path: Path) -> None:
    """Such as one whose token is renewed first: it is read while it comes, and would be for ever."""

    class Client:
        http = SimpleNamespace(stop=lambda: None)

        def authorize(self, _scope: str) -> None: ...

        def fetch(self, *_: object, **__: object) -> None:
            raise HttpError("no token")

    layer = Descriptor(
        media_type="application/vnd.oci.image.layer.v1.tar", digest="sha256:" + "0" * 64, size=1
    )
    image = OciImage(manifest=layer, document=b"", config=layer, layers=(layer,))
    pull = docker._Pull(Client(), image, tmp_path, Gauge("pull"))  # type: ignore[arg-type]
    with pytest.raises(HttpError, match="no token"), pull, pull.layer(0) as stream:
        stream.read(1)


def test_a_pull_is_a_job_with_all_layers_in_it(tmp_path: Path) -> None:
    layers = [layouts.layer({"a": os.urandom(100_000)}), layouts.layer({"b": os.urandom(50_000)})]
    digest = layouts.make_layout(tmp_path / "x", layers)
    seen: list[Progress] = []
    bus = Bus(lambda event: seen.append(event) if isinstance(event, Progress) else None)
    with RegistryServer() as server:
        for blob in (tmp_path / "x/blobs/sha256").iterdir():
            server.content[f"blobs/sha256:{blob.name}"] = (blob.read_bytes(), "application/octet-stream")
        manifest = (tmp_path / "x/blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()
        server.content["manifests/2"] = (manifest, "application/vnd.oci.image.manifest.v1+json")
        (tmp_path / "into").mkdir()
        (tmp_path / "cache").mkdir()
        source = docker.Docker({"BUILDSTEP_INSECURE_REGISTRIES": server.host})
        source.fetch(f"//{server.host}/x:2", tmp_path / "into", layouts.context(tmp_path / "cache", bus))
    size = sum(map(len, layers))
    assert [(event.job, event.state, event.done, event.total) for event in seen if "pull" in event.job] == [
        (f"pull {server.host}/x:2", "begin", 0, size),
        (f"pull {server.host}/x:2", "end", size, size),
    ]
