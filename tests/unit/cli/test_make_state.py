"""What `make image` records of its last build, and why it builds again."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from buildstep.cli import make_state
from buildstep.cli.make_state import Watched
from buildstep.errors import PublishError, SpecError, StoreError
from buildstep.spec.document import Document


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPONENT_VALUES", "A=1")
    (tmp_path / "proto").mkdir()
    (tmp_path / "m.json").write_text("{}")
    return tmp_path


def watched(site: Path, git: str = "main at abc") -> Watched:
    return Watched(proto=site / "proto", files=[site / "m.json"], git=git)


def build(site: Path, version: str = "1", **more: object) -> list[str]:
    """Do what a build does between begin and finish."""
    bits = site / "bits/hello"
    bits.mkdir(parents=True, exist_ok=True)
    stem = bits / f"hello-{version}"
    paths = [f"{stem}{ending}" for ending in (".oci.tar", ".imgmanifest", ".buildrecord.json")]
    for path in paths:
        Path(path).write_text(json.dumps({"name": "hello", "version": version}))
    result = {"files": [{"path": paths[0]}], "manifest": paths[1], "record": paths[2], **more}
    (site / "state/result.part").write_text(json.dumps(result))
    return make_state.finish(site / "state")


def test_nothing_is_stale_after_a_build(site: Path) -> None:
    state = site / "state"
    assert make_state.begin(state, watched(site)) == "it has not been built yet"
    assert build(site)[0] == "bits/hello/hello-1.oci.tar"
    assert make_state.why_stale(state, watched(site)) == ""
    assert make_state.begin(state, watched(site)) == ""
    assert make_state.finish(state)[0] == "bits/hello/hello-1.oci.tar", "nothing was to be built"


def test_what_the_manifest_includes_and_what_is_ignored_are_watched(site: Path) -> None:
    state, ignore = site / "state", site / ".buildstepignore"
    included = site / "common.json"
    included.write_text("{}")
    seen = Watched(proto=site / "proto", files=[site / "m.json", ignore])
    make_state.begin(state, seen)
    digest = hashlib.sha256(included.read_bytes()).hexdigest()
    build(site, sources={str(included): digest})
    assert make_state.why_stale(state, seen) == ""
    ignore.write_text("*.swp")
    assert make_state.why_stale(state, seen) == f"{ignore} has changed"
    ignore.unlink()
    included.write_text('{"version": "2"}')
    assert make_state.why_stale(state, seen) == f"{included} has changed"
    included.unlink()
    assert make_state.why_stale(state, seen) == f"{included} has changed"


def test_each_change_is_a_reason(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = site / "state"
    make_state.begin(state, watched(site))
    build(site)
    assert "main at abc -> other" in make_state.why_stale(state, watched(site, "other"))
    record = site / "bits/hello/hello-1.buildrecord.json"
    record.write_text(record.read_text() + " ")
    assert make_state.why_stale(state, watched(site)) == "", "publishing extends the record"
    monkeypatch.setenv("COMPONENT_VALUES", "A=2")
    assert make_state.begin(state, watched(site)) == "the component's variables have changed"
    monkeypatch.setenv("COMPONENT_VALUES", "A=1")
    (site / "m.json").write_text("[]")
    assert make_state.why_stale(state, watched(site)) == f"{site}/m.json has changed"
    (site / "m.json").write_text("{}")
    (site / "proto/new").touch()
    assert make_state.why_stale(state, watched(site)) == f"{site}/proto has changed"
    (site / "bits/hello/hello-1.oci.tar").write_text("")
    assert "is not as it was written" in make_state.why_stale(state, watched(site))


def test_a_build_that_reported_nothing_is_an_error(site: Path) -> None:
    with pytest.raises(FileNotFoundError):
        (site / "state/image-stamp.json").read_text()
    make_state.begin(site / "state", watched(site))
    with pytest.raises(StoreError):
        make_state.finish(site / "state")


def test_a_dirty_tree_is_published_only_when_allowed(site: Path) -> None:
    state = site / "state"
    with pytest.raises(StoreError, match="no image has been built"):
        make_state.publishable(state, allow_dirty=False)
    make_state.begin(state, watched(site))
    build(site, "1-dirty")
    with pytest.raises(PublishError, match="uncommitted"):
        make_state.publishable(state, allow_dirty=False)
    assert make_state.publishable(state, allow_dirty=True).endswith("hello-1-dirty.imgmanifest")


def test_the_newest_versions_stay_each_whole(site: Path) -> None:
    state, bits = site / "state", site / "bits/hello"
    for version in ("1", "1.1", "2"):
        (site / "m.json").write_text(f'{{"version": "{version}"}}')
        make_state.begin(state, watched(site))
        build(site, version)
    assert len(list(bits.glob("*.oci.tar"))) == 4
    make_state.finish(state, keep=2)
    assert {path.name for path in bits.glob("*.imgmanifest")} == {
        "hello-1.1.imgmanifest", "hello-2.imgmanifest", "hello-latest.imgmanifest"
    }  # fmt: skip
    assert os.readlink(bits / "hello-latest.imgmanifest") == "hello-2.imgmanifest"
    (site / "m.json").write_text("{}")
    make_state.begin(state, watched(site))
    build(site, "1")
    make_state.finish(state, keep=1)
    assert {path.name for path in bits.iterdir()} == {
        f"hello-{version}{ending}"
        for version in ("1", "latest")
        for ending in (".oci.tar", ".imgmanifest", ".buildrecord.json")
    }


@pytest.mark.parametrize("name", ["1-arm64", "1-arm-v7", "386-386"])
def test_the_newest_for_a_platform_is_linked_by_its_processor(site: Path, name: str) -> None:
    version, _, processor = name.partition("-")
    make_state.begin(site / "state", watched(site))
    bits = site / "bits/hello"
    bits.mkdir(parents=True)
    paths = [bits / f"hello-{name}{ending}" for ending in (".oci.tar", ".imgmanifest", ".buildrecord.json")]
    for path in paths:
        path.write_text(json.dumps({"name": "hello", "version": version}))
    archive, manifest, record = map(str, paths)
    result = {"files": [{"path": archive}], "manifest": manifest, "record": record}
    (site / "state/result.part").write_text(json.dumps(result))
    make_state.finish(site / "state")
    assert os.readlink(bits / f"hello-latest-{processor}.oci.tar") == f"hello-{name}.oci.tar"


def test_clean_removes_what_builds_made_and_nothing_else(site: Path) -> None:
    state, output = site / "state", site / "bits/hello"
    make_state.begin(state, watched(site))
    build(site)
    (output / "mine").touch()
    (site / "outside").touch()
    made = json.loads((state / "made.json").read_text())
    (state / "made.json").write_text(json.dumps([*made, os.fspath(site / "outside")]))
    assert len(make_state.clean(state, output)) == 6, "three files, and a link to each"
    assert (output / "mine").exists()
    assert (site / "outside").exists()
    assert not state.exists()


@pytest.mark.parametrize(
    "value", [None, [], {}, {"name": 1}, {"name": "a/b"}, {"name": ".x"}, {"name": "-x"}]
)
def test_a_name_that_is_no_directory_is_refused(value: object) -> None:
    with pytest.raises(SpecError, match=r"m\.json"):
        make_state.manifest_name(Document("m.json", value))


def test_the_name_of_a_manifest() -> None:
    assert make_state.manifest_name(Document("m.json", {"name": "hello"})) == "hello"
