"""A base image out of a store: what a locator means, and what is in the pool then."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, cast

import pytest

from buildstep.errors import ImageError
from buildstep.events import Bus
from buildstep.files import layout, open_storage, refs
from buildstep.files.content import ContentStore, packed_list
from buildstep.files.refs import Ref
from buildstep.images.interface import SourceContext, SourceImage
from buildstep.images.sources.files import Files
from buildstep.system.digest import sha256_file
from buildstep.tree.entry import Entry, dumps, tree_digest
from buildstep.tree.scan import scan
from tests.unit.images.test_sources import recorded


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"dir:{tmp_path}/store"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "root"
    (top / "etc").mkdir(parents=True)
    (top / "etc/motd").write_text("hello")
    (top / "closed").mkdir(mode=0o500)
    (top / "secret").write_text("s")
    (top / "secret").chmod(0o4040)
    (top / "twin").hardlink_to(top / "etc/motd")
    return top


def fetch(source: Files, locator: str, into: Path, *, privileged: bool) -> SourceImage:
    into.mkdir()
    unused = cast(Any, None)
    context = SourceContext(
        cache=into, downloads=into, privileged=privileged, bus=Bus(), environ={}, unpack=unused,
        apply_layer=unused,
    )  # fmt: skip
    return source.fetch(locator, into, context)


def test_the_store_of_the_environment_is_the_default(url: str, root: Path) -> None:
    recorded(root, url, "web/1.2")
    source = Files({"BUILDSTEP_STORE": url})
    named = source.identify("web/1.2", sha256_file)
    assert named == Files({}).identify(f"{url}#web/1.2", sha256_file)
    digest = named.key.removeprefix("files:sha256:")
    assert source.identify(digest, sha256_file).key == named.key
    assert named.label == "files:web/1.2"


@pytest.mark.parametrize("privileged", [False, True])
def test_the_tree_comes_with_its_true_entries(
    url: str, root: Path, tmp_path: Path, *, privileged: bool
) -> None:
    recorded(root, url, "web/1.2")
    listed = ContentStore(open_storage(url)).get_list(refs.get(open_storage(url), "web/1.2").list)
    found = fetch(Files({}), f"{url}#web/1.2", tmp_path / "into", privileged=privileged)
    assert found.entries is not None
    assert dumps(found.entries) == dumps(listed)
    there = scan(tmp_path / "into")
    assert set(there) == set(listed)
    assert (tmp_path / "into/etc/motd").samefile(tmp_path / "into/twin")
    assert there[b"closed"].mode == (0o500 if privileged else 0o700)
    assert there[b"secret"].mode == (0o4040 if privileged else 0o640)


def test_what_a_build_noted_is_the_images_manifest(url: str, root: Path, tmp_path: Path) -> None:
    noted = {"name": "web", "version": "1.2", "os": "linux", "uuid": "x", "type": "other"}
    config = {"architecture": "arm64", "os": "linux", "config": {"User": "www"}}
    recorded(root, url, "other/name", manifest=noted, config=config)
    found = fetch(Files({}), f"{url}#other/name", tmp_path / "a", privileged=True)
    assert found.manifest == {"name": "web", "version": "1.2", "os": "linux", "type": "other"}
    assert found.config == config
    recorded(root, url, "bad/1", manifest={"os": 3}, config=["x"])
    found = fetch(Files({}), f"{url}#bad/1", tmp_path / "b", privileged=True)
    assert found.manifest == {"name": "bad", "version": "1"}
    assert found.config == {}
    recorded(root, url, "plain")
    assert fetch(Files({}), f"{url}#plain", tmp_path / "c", privileged=True).manifest["version"] == "0"


def test_a_ref_that_is_not_there_gets_a_hint(url: str, root: Path) -> None:
    recorded(root, url, "web/1.2")
    for locator, hint in (("web/1.3", "web/1.2"), ("qqqq", "files list"), ("ab" * 32, "digest of a tree")):
        with pytest.raises(ImageError) as caught:
            Files({}).identify(f"{url}#{locator}", sha256_file)
        assert hint in caught.value.hint
    with pytest.raises(ImageError, match="is not the name of a ref"):
        Files({}).identify(f"{url}#a b", sha256_file)
    with pytest.raises(ImageError, match="no store of the kind"):
        Files({}).identify("gopher://x#a", sha256_file)


def test_a_hostile_list_writes_nothing_outside(url: str, root: Path, tmp_path: Path) -> None:
    recorded(root, url, "web/1.2")
    store = ContentStore(open_storage(url))
    evil = {
        b"": Entry(b"", "d", 0o755, 0, 0),
        b"a": Entry(b"a", "l", 0o777, 0, 0, target=os.fsencode(tmp_path)),
        b"a/owned": Entry(b"a/owned", "d", 0o755, 0, 0),
    }
    digest = hashlib.sha256(dumps(evil)).hexdigest()
    store.storage.write(layout.list_name(digest), packed_list(dumps(evil)))
    refs.write(store.storage, Ref(name="evil", list=digest, tree=tree_digest(evil)), None)
    with pytest.raises(ImageError):
        fetch(Files({}), f"{url}#evil", tmp_path / "into", privileged=True)
    assert not (tmp_path / "owned").exists()
    assert os.listdir(tmp_path / "into") == []
