"""Several images under one name: an index of them in a registry, or in a layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildstep.errors import PublishError, UsageError
from buildstep.events import Bus
from buildstep.formats.oci.layout import open_layout
from buildstep.formats.oci.spec import OCI_INDEX, OciPlatform
from buildstep.images.publish_index import publish
from buildstep.images.publishers import PublishOptions
from tests.servers.layouts import layer, make_layout
from tests.servers.registry import RegistryServer


def made(top: Path, name: str) -> Path:
    """The layout of an image for linux/NAME, with a layer of its own."""
    make_layout(top / name, [layer({"name": name.encode()})], config={"architecture": name})
    return top / name


def send(paths: list[Path], target: str, top: Path, *, replace: bool = False) -> tuple[str, dict[str, str]]:
    options = PublishOptions(replace=replace)
    done = publish(paths, target, options=options, state=top / "state", bus=Bus())
    return done.state, dict(done.objects)


def test_an_index_in_a_registry_has_each_platform_and_comes_last(tmp_path: Path) -> None:
    paths = [made(tmp_path, "arm64"), made(tmp_path, "amd64")]
    with RegistryServer() as server:
        target = f"docker://{server.host}/web:1"
        state, objects = send(paths, target, tmp_path)
        assert state == "published"
        data, kind = server.content["manifests/1"]
        assert kind == OCI_INDEX
        rows = json.loads(data)["manifests"]
        assert [row["platform"] for row in rows] == [
            {"architecture": "amd64", "os": "linux"},
            {"architecture": "arm64", "os": "linux"},
        ]
        assert "annotations" not in rows[0]
        for row in rows:
            assert f"manifests/{row['digest']}" in server.content
            assert objects[f"linux/{row['platform']['architecture']}"] == row["digest"]
        names = [place for call, place in server.calls if call == "PUT" and "manifests/" in place]
        assert names[-1].endswith("manifests/1")
        assert objects["1"].partition(":")[2] in names[-2]
        # The order in which they are named is nothing of the index; doing it again sends nothing.
        before = len(server.calls)
        again, same = send(paths[::-1], target, tmp_path)
        assert again == "already"
        assert same.items() <= objects.items()
        assert {call for call, _ in server.calls[before:]} <= {"HEAD", "GET"}
        with pytest.raises(PublishError, match="another image already"):
            send(paths[:1], target, tmp_path)
        assert send(paths[:1], target, tmp_path, replace=True)[0] == "published"


def test_an_index_in_a_layout_is_found_by_name_and_platform(tmp_path: Path) -> None:
    paths = [made(tmp_path, "arm64"), made(tmp_path, "amd64")]
    target = f"oci:{tmp_path}/out:1.0"
    state, objects = send(paths, target, tmp_path)
    layout = open_layout(tmp_path / "out", "out")
    entry = layout.find("1.0")
    assert (state, entry.media_type, entry.digest) == ("published", OCI_INDEX, objects["1.0"])
    for name in ("arm64", "amd64"):
        image = layout.image(entry, OciPlatform.parse(f"linux/{name}"))
        assert image.manifest.digest == objects[f"linux/{name}"]
        for blob in (*image.layers, image.config):
            with layout.open(blob) as stream:
                stream.verify()
    assert send(paths, target, tmp_path)[0] == "already"
    with pytest.raises(PublishError, match="another image already"):
        send(paths[:1], target, tmp_path)
    # Another name beside it, of an index that is there: the whole is taken as its images.
    assert send([tmp_path / "out"], f"oci:{tmp_path}/out:2.0", tmp_path)[1]["2.0"] == entry.digest
    assert set(open_layout(tmp_path / "out", "out").tags()) == {"1.0", "2.0"}


def test_all_that_cannot_be_published_is_said_and_nothing_is_sent(tmp_path: Path) -> None:
    amd = made(tmp_path, "amd64")
    (tmp_path / "x.oci.tar").write_text("nothing")
    with RegistryServer() as server:
        target = f"docker://{server.host}/web:1"
        with pytest.raises(PublishError) as caught:
            send([amd, tmp_path / "x.oci.tar", tmp_path / "gone.imgmanifest"], target, tmp_path)
        assert "x.oci.tar" in caught.value.detail
        assert "gone.imgmanifest" in caught.value.detail
        again = tmp_path / "again"
        make_layout(again, [layer({"other": b"1"})])
        with pytest.raises(PublishError) as caught:
            send([amd, again], target, tmp_path)
        assert caught.value.detail == "amd64 and again are both for linux/amd64"
        with pytest.raises(UsageError, match="which tag"):
            send([amd], f"docker://{server.host}/web", tmp_path)
        with pytest.raises(UsageError, match="no index can be published"):
            send([amd], "s3://bucket/name:1", tmp_path)
        assert server.content == {}
