"""Images by uuid and name@version from several repositories, with origins; and publishing to a directory."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import DiskError, ExitCode, ImageError, PublishError, UsageError
from buildstep.images.publishers import Bundle, Published, PublishOptions, directory, publish, publisher
from buildstep.images.remote import Remote
from buildstep.images.repositories import Repository, open_repository, path_of
from buildstep.images.resolve import Fetched, Incoming, fetch_files, resolve
from buildstep.net.errors import HttpError
from buildstep.spec.config import SourceConfig
from buildstep.system.files import fsync_dir
from tests.servers.fixtures import FAST, Notes, bus, imgapi_server
from tests.servers.imgapi import ImgapiServer
from tests.unit.net.test_imgapi import UUID, make_bundle

__all__ = ["bus", "imgapi_server"]

DEAD = "http://127.0.0.1:1"


@pytest.fixture
def opened(bus: Notes) -> Any:
    def open_all(*uris: str) -> list[Repository]:
        return [open_repository(uri, environ={}, bus=bus, options=FAST) for uri in uris]

    return open_all


def in_directory(bundle: Bundle, folder: Path, bus: Notes) -> Published:
    return publish(bundle, f"dir:{folder}", options=PublishOptions(), bus=bus)


class TestResolve:
    def test_by_uuid_and_name(self, imgapi_server: ImgapiServer, opened: Any, bus: Notes) -> None:
        old = imgapi_server.add(name="base", published_at="2020-01-01T00:00:00Z")
        new = imgapi_server.add(name="base", published_at="2026-01-01T00:00:00Z")
        repositories = opened(imgapi_server.url)
        assert [row.uuid for row in resolve(old["uuid"], repositories, bus=bus)] == [old["uuid"]]
        assert [row.uuid for row in resolve("base@1.0.0", repositories, bus=bus)] == [new["uuid"]]

    def test_a_scheme_in_capitals(self, imgapi_server: ImgapiServer, opened: Any, bus: Notes) -> None:
        image = imgapi_server.add()
        url = imgapi_server.url.replace("http", "HTTP")
        assert [row.uuid for row in resolve(image["uuid"], opened(url), bus=bus)] == [image["uuid"]]
        assert publisher(url, bus).scheme == "imgapi"

    def test_origins_come_first(self, imgapi_server: ImgapiServer, opened: Any, bus: Notes) -> None:
        root = imgapi_server.add()
        middle = imgapi_server.add(origin=root["uuid"])
        top = imgapi_server.add(origin=middle["uuid"])
        repositories = opened(imgapi_server.url)
        chain = resolve(top["uuid"], repositories, bus=bus)
        assert [row.uuid for row in chain] == [root["uuid"], middle["uuid"], top["uuid"]]
        chain = resolve(top["uuid"], repositories, bus=bus, have=lambda uuid: uuid == middle["uuid"])
        assert [row.uuid for row in chain] == [top["uuid"]]

    def test_an_origin_may_be_inactive_and_elsewhere(
        self, imgapi_server: ImgapiServer, opened: Any, bus: Notes
    ) -> None:
        with ImgapiServer() as second:
            imgapi_server.add()
            root = imgapi_server.add(state="disabled")
            top = second.add(origin=root["uuid"])
            chain = resolve(top["uuid"], opened(imgapi_server.url, second.url)[::-1], bus=bus)
            assert [row.uuid for row in chain] == [root["uuid"], top["uuid"]]

    def test_a_dead_source_fails_nothing(self, imgapi_server: ImgapiServer, opened: Any, bus: Notes) -> None:
        manifest = imgapi_server.add()
        with ImgapiServer() as empty, ImgapiServer() as broken:
            broken.fail("500", times=99)
            repositories = opened(DEAD, empty.url, broken.url, imgapi_server.url)
            assert resolve(manifest["uuid"], repositories, bus=bus)[0].uuid == manifest["uuid"]
            assert any("is passed over" in text for text in bus.texts)

    def test_not_found_says_whether_that_is_certain(
        self, imgapi_server: ImgapiServer, opened: Any, bus: Notes
    ) -> None:
        with pytest.raises(ImageError, match="no repository has") as caught:
            resolve(UUID, opened(imgapi_server.url), bus=bus)
        assert not caught.value.retryable
        assert caught.value.code == ExitCode.IMAGE
        with pytest.raises(ImageError, match="1 of 2 repositories did not answer") as caught:
            resolve(UUID, opened(DEAD, imgapi_server.url), bus=bus)
        assert caught.value.retryable

    def test_not_active(self, imgapi_server: ImgapiServer, opened: Any, bus: Notes) -> None:
        manifest = imgapi_server.add(state="unactivated")
        with pytest.raises(ImageError, match="unactivated, not active"):
            resolve(manifest["uuid"], opened(imgapi_server.url), bus=bus)

    def test_a_circle_of_origins(self, imgapi_server: ImgapiServer, opened: Any, bus: Notes) -> None:
        first = imgapi_server.add()
        second = imgapi_server.add(origin=first["uuid"])
        imgapi_server.images[first["uuid"]].manifest["origin"] = second["uuid"]
        with pytest.raises(ImageError, match="is based on itself"):
            resolve(second["uuid"], opened(imgapi_server.url), bus=bus)

    def test_a_bad_manifest_is_passed_over(
        self, imgapi_server: ImgapiServer, opened: Any, bus: Notes
    ) -> None:
        with ImgapiServer() as bad:
            manifest = imgapi_server.add()
            bad.add(os=7)
            chain = resolve(manifest["uuid"], opened(bad.url, imgapi_server.url), bus=bus)
            assert chain[0].repository.label == imgapi_server.url

    @pytest.mark.parametrize("ref", ["nonsense", "@1", "a@"])
    def test_nonsense(self, opened: Any, bus: Notes, ref: str) -> None:
        with pytest.raises(ImageError, match="neither"):
            resolve(ref, opened(DEAD), bus=bus)
        with pytest.raises(UsageError):
            opened("gopher://x")


class TestFetch:
    def test_many_at_once_in_order(
        self, imgapi_server: ImgapiServer, opened: Any, bus: Notes, tmp_path: Path
    ) -> None:
        uuid = ""
        for number in range(8):
            extra = {"origin": uuid} if uuid else {}
            uuid = imgapi_server.add(b"%d" % number * 100000, **extra)["uuid"]
        repositories = opened(imgapi_server.url)
        chain = resolve(uuid, repositories, bus=bus)
        ready: list[Fetched] = []
        main = threading.get_ident()

        def on_ready(fetched: Fetched) -> None:
            assert threading.get_ident() == main
            ready.append(fetched)

        done = fetch_files(chain, repositories, tmp_path, bus=bus, on_ready=on_ready)
        assert ready == done
        assert [row.file.path.read_bytes()[:1] for row in done] == [b"%d" % number for number in range(8)]
        assert imgapi_server.most_busy <= 5

    def test_another_source_helps_out(
        self, imgapi_server: ImgapiServer, opened: Any, bus: Notes, tmp_path: Path
    ) -> None:
        with ImgapiServer() as broken:
            manifest = broken.add(b"same file")
            imgapi_server.add(b"same file")
            broken.fail("flip", path="/file", times=9)
            repositories = opened(broken.url, imgapi_server.url)
            done = fetch_files(
                resolve(manifest["uuid"], repositories, bus=bus), repositories, tmp_path, bus=bus
            )
            assert done[0].source == imgapi_server.url

    def test_but_not_with_another_file(
        self, imgapi_server: ImgapiServer, opened: Any, bus: Notes, tmp_path: Path
    ) -> None:
        with ImgapiServer() as broken:
            manifest = broken.add(b"one file")
            imgapi_server.add(b"other file")
            broken.fail("flip", path="/file", times=9)
            repositories = opened(broken.url, imgapi_server.url)
            chain = resolve(manifest["uuid"], repositories, bus=bus)
            with pytest.raises(ImageError, match="sha1"):
                fetch_files(chain, repositories, tmp_path, bus=bus)
            assert not list(tmp_path.glob("*.file"))

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
    def test_whatever_fails_a_download_is_told_to_who_reads_it(
        self, tmp_path: Path, opened: Any, bus: Notes, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        """A tar is unpacked while it comes: its reader waited for ever."""
        in_directory(make_bundle(tmp_path), tmp_path / "www", bus)
        repositories = opened(f"dir:{tmp_path / 'www'}", DEAD)
        chain = resolve("hello@1.0.0", repositories[:1], bus=bus)

        def fails(*_: object) -> None:
            raise OSError(number, os.strerror(number), os.fspath(tmp_path / "x"))

        read: list[bytes] = []

        def on_begin(incoming: Incoming) -> bool:
            try:
                read.append(incoming.read(1000))
            except HttpError:
                return False
            return True

        monkeypatch.setattr("buildstep.images.repositories.fsync_dir", fails)
        with pytest.raises((DiskError, OSError)):
            fetch_files(chain, repositories, tmp_path, bus=bus, on_begin=on_begin)
        monkeypatch.setattr("buildstep.images.repositories.shutil.copyfileobj", fails)
        (tmp_path / f"{UUID}.file").unlink()
        expected = DiskError if number == errno.ENOSPC else ImageError
        with pytest.raises(expected) as caught:
            fetch_files(chain, repositories, tmp_path, bus=bus, on_begin=on_begin)
        assert os.strerror(number) in str(caught.value)
        assert read == []

    def test_a_failure_stops_the_others(
        self, imgapi_server: ImgapiServer, opened: Any, bus: Notes, tmp_path: Path
    ) -> None:
        base = imgapi_server.add(b"x" * 1000)
        top = imgapi_server.add(origin=base["uuid"])
        imgapi_server.fail("drip", path=f"{base['uuid']}/file", times=99)
        imgapi_server.fail("flip", path=f"{top['uuid']}/file", times=99)
        repositories = opened(imgapi_server.url)
        with pytest.raises(ImageError, match=top["uuid"]):
            fetch_files(resolve(top["uuid"], repositories, bus=bus), repositories, tmp_path, bus=bus)


class TestDirectory:
    def test_layout(self, tmp_path: Path, bus: Notes) -> None:
        top = tmp_path / "www"
        bundle = make_bundle(tmp_path)
        found = in_directory(bundle, top, bus)
        assert found.state == "published"
        names = sorted(str(p.relative_to(top)) for p in top.rglob("*") if p.is_file() and p.name[0] != ".")
        assert names == [
            "hello/1.0.0/hello-1.0.0.buildrecord.json", "hello/1.0.0/hello-1.0.0.imgmanifest",
            "hello/1.0.0/hello-1.0.0.zfs.gz", "hello/1.0.0/index.json", f"images/{UUID}/file",
            f"images/{UUID}/manifest.json", "images/index.json",
        ]  # fmt: skip
        assert json.loads((top / "images/index.json").read_text())["images"][0]["uuid"] == UUID
        assert in_directory(make_bundle(tmp_path), top, bus).state == "already"

    def test_is_a_repository(self, tmp_path: Path, opened: Any, bus: Notes) -> None:
        in_directory(make_bundle(tmp_path), tmp_path / "www", bus)
        repositories = opened(f"dir:{tmp_path / 'missing'}", f"dir:{tmp_path / 'www'}")
        chain = resolve("hello@1.0.0", repositories, bus=bus)
        assert chain[0].uuid == UUID
        assert [row["uuid"] for row in repositories[1].images(name="~ell", os="!linux")] == [UUID]
        done = fetch_files(chain, repositories, tmp_path, bus=bus)
        assert done[0].file.path.read_bytes() == b"image file" * 1000
        (tmp_path / "www/images" / UUID / "file").write_bytes(b"damaged")
        done[0].file.path.unlink()
        with pytest.raises(ImageError, match="not what its manifest says"):
            fetch_files(chain, repositories, tmp_path, bus=bus)

    @pytest.mark.parametrize(
        "change",
        [{"version": "2.0.0"}, {"uuid": "bbbbbbbb-0000-4000-8000-000000000001"}, {"description": "x"}],
    )
    def test_other_content_is_refused(self, tmp_path: Path, bus: Notes, change: dict[str, Any]) -> None:
        top = tmp_path / "www"
        in_directory(make_bundle(tmp_path / "a"), top, bus)
        before = sorted(top.rglob("*"))
        with pytest.raises(PublishError, match="published already"):
            in_directory(make_bundle(tmp_path / "b", **change), top, bus)
        assert sorted(top.rglob("*")) == before

    def test_after_a_run_that_died(self, tmp_path: Path, bus: Notes) -> None:
        top = tmp_path / "www"
        half = top / "images" / f".new-{UUID}"
        half.mkdir(parents=True)
        (half / "file").write_bytes(b"half")
        (top / "images/index.json").write_text("damaged")
        assert in_directory(make_bundle(tmp_path), top, bus).state == "published"
        assert not half.exists()
        assert len(json.loads((top / "images/index.json").read_text())["images"]) == 1

    def test_where_there_are_no_hard_links(
        self, tmp_path: Path, bus: Notes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", fails)
        assert in_directory(make_bundle(tmp_path), tmp_path / "www", bus).state == "published"
        named = tmp_path / "www/hello/1.0.0/hello-1.0.0.zfs.gz"
        assert named.read_bytes() == b"image file" * 1000

    def test_what_does_not_fit_takes_no_room(
        self, tmp_path: Path, bus: Notes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        top = tmp_path / "www"

        def full(path: Path) -> None:
            if path.name.startswith(".new-1.0.0"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
            fsync_dir(path)

        monkeypatch.setattr(directory, "fsync_dir", full)
        with pytest.raises(PublishError, match="No space left"):
            in_directory(make_bundle(tmp_path), top, bus)
        assert os.listdir(top / "hello") == []
        assert os.listdir(top / "images") == [UUID]
        monkeypatch.undo()
        assert in_directory(make_bundle(tmp_path), top, bus).state == "published"

    def test_a_damaged_image_beside_it_is_no_obstacle(self, tmp_path: Path, bus: Notes) -> None:
        other = tmp_path / "www/images/other"
        other.mkdir(parents=True)
        for text in ("{", "[]", "{}"):
            (other / "manifest.json").write_text(text)
            (tmp_path / "www/images/index.json").unlink(missing_ok=True)
            in_directory(make_bundle(tmp_path), tmp_path / "www", bus)
            index = json.loads((tmp_path / "www/images/index.json").read_text())
            assert [row["uuid"] for row in index["images"]] == [UUID]

    @pytest.mark.parametrize(
        ("text", "listed"),
        [
            ('{"images": 1}', False),
            ('{"images": [{"uuid": ["x"]}, {"uuid": "y", "tags": 1, "billing_tags": null}]}', True),
        ],
    )
    def test_an_index_of_odd_types_is_no_bug_of_ours(
        self, tmp_path: Path, bus: Notes, text: str, listed: bool
    ) -> None:
        (tmp_path / "images").mkdir()
        (tmp_path / "images/index.json").write_text(text)
        remote = Remote([SourceConfig(url=f"dir:{tmp_path}")], environ={}, http={}, bus=bus)
        for filters in ({}, {"tag.a": "!b"}, {"billing_tag": "x"}):
            if listed:
                count = 0 if "billing_tag" in filters else 2
                assert len(list(remote.images(channel="", filters=filters))) == count
            else:
                with pytest.raises(ImageError, match="no source of images answered"):
                    list(remote.images(channel="", filters=filters))

    def test_names_stay_apart(self) -> None:
        texts = ["a/b", "a%2Fb", "a b", "..", ".", ".x", "images", "image"]
        assert len({path_of(text) for text in texts}) == len(texts)
        assert not any("/" in path_of(text) or path_of(text).startswith(".") for text in texts)

    def test_two_writers(self, tmp_path: Path, bus: Notes) -> None:
        bundle = make_bundle(tmp_path)
        states: list[str] = []
        threads = [
            threading.Thread(target=lambda: states.append(in_directory(bundle, tmp_path / "www", bus).state))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert sorted(states) == ["already", "already", "already", "published"]

    def test_nobody_publishes_there(self, tmp_path: Path, bus: Notes) -> None:
        with pytest.raises(UsageError, match="nothing publishes"):
            publish(make_bundle(tmp_path), "gopher:x", options=PublishOptions(), bus=bus)
