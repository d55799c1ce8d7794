"""The IMGAPI client and its publisher, against a server that goes wrong in every way we know of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import ExitCode, PublishError
from buildstep.images.publishers import Bundle, Published, PublishOptions, publish
from buildstep.net.errors import HttpError
from buildstep.net.http import Http
from buildstep.net.imgapi import Account, ImgapiClient, expected_file
from buildstep.net.ssh_keys import agent_signer
from tests.servers.fixtures import LIMITS, Notes, bus, http, imgapi_server
from tests.servers.imgapi import ImgapiServer
from tests.unit.net.test_ssh_keys import agent, key
from tests.unit.trust.keys.pairs import signer_of

__all__ = ["agent", "bus", "http", "imgapi_server", "key"]

UUID = "aaaaaaaa-0000-4000-8000-000000000001"


def make_bundle(folder: Path, *, content: bytes = b"image file" * 1000, **fields: Any) -> Bundle:
    folder.mkdir(parents=True, exist_ok=True)
    artifact = folder / "hello-1.0.0.zfs.gz"
    artifact.write_bytes(content)
    manifest = {
        "v": 2, "uuid": UUID, "owner": "00000000-0000-0000-0000-000000000000", "name": "hello",
        "version": "1.0.0", "type": "zone-dataset", "os": "smartos", "published_at": "2026-01-02T03:04:05Z",
        "files": [{"size": len(content), "compression": "gzip", "sha1": hashlib.sha1(content).hexdigest()}],
        **fields,
    }  # fmt: skip
    (folder / "hello-1.0.0.imgmanifest").write_text(json.dumps(manifest))
    (folder / "hello-1.0.0.buildrecord.json").write_text("{}")
    return Bundle(
        manifest=folder / "hello-1.0.0.imgmanifest",
        artifacts=(artifact,),
        record=folder / "hello-1.0.0.buildrecord.json",
    )


class TestReading:
    def test_ping(self, http: Http, imgapi_server: ImgapiServer) -> None:
        assert ImgapiClient(imgapi_server.url, http=http).ping()["imgapi"] is True
        assert ImgapiClient(imgapi_server.url + "/prefix/", http=http).ping()["imgapi"] is True

    def test_something_else_answers(self, http: Http, imgapi_server: ImgapiServer) -> None:
        with pytest.raises(HttpError, match="ResourceNotFound"):
            ImgapiClient(imgapi_server.url + "/other", http=http).ping()

    def test_pages_with_an_inclusive_marker(
        self, http: Http, imgapi_server: ImgapiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("buildstep.net.imgapi.PAGE", 7)
        imgapi_server.page = 7
        names = [imgapi_server.add()["name"] for _ in range(20)]
        client = ImgapiClient(imgapi_server.url, http=http)
        assert [row["name"] for row in client.images()] == names
        assert imgapi_server.calls("GET", r"/images\?") == 4

    def test_a_list_of_whole_pages_ends(
        self, http: Http, imgapi_server: ImgapiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("buildstep.net.imgapi.PAGE", 7)
        imgapi_server.page = 7
        for _ in range(7):
            imgapi_server.add()
        assert len(list(ImgapiClient(imgapi_server.url, http=http).images())) == 7

    def test_filters(self, http: Http, imgapi_server: ImgapiServer) -> None:
        imgapi_server.add(name="base-64")
        imgapi_server.add(name="minimal")
        client = ImgapiClient(imgapi_server.url, http=http)
        assert [row["name"] for row in client.images(name="~base")] == ["base-64"]
        with pytest.raises(HttpError, match="cannot be filtered by nmae"):
            list(client.images(nmae="x"))

    def test_get_and_fetch(self, http: Http, imgapi_server: ImgapiServer, tmp_path: Path) -> None:
        manifest = imgapi_server.add(b"the file")
        client = ImgapiClient(imgapi_server.url, http=http)
        assert client.get(manifest["uuid"]) == {k: v for k, v in manifest.items() if k != "activated"}
        assert client.get(UUID) is None
        assert client.fetch_file(manifest, tmp_path / "f").path.read_bytes() == b"the file"

    def test_channels(self, http: Http) -> None:
        with ImgapiServer(channels=("dev", "release")) as server:
            dev = server.add(channel="dev")
            client = ImgapiClient(server.url + "?channel=release", http=http)
            assert client.get(dev["uuid"]) is None
            found = ImgapiClient(server.url + "?channel=dev", http=http).get(dev["uuid"])
            assert found is not None
            assert found["channels"] == ["dev"]
            assert ImgapiClient(server.url, http=http, channel="*").get(dev["uuid"]) is not None

    def test_the_servers_words(self, http: Http, imgapi_server: ImgapiServer) -> None:
        client = ImgapiClient(imgapi_server.url, http=http)
        with pytest.raises(HttpError, match="ValidationFailed") as caught:
            client.import_image({"uuid": UUID, "v": 2})
        assert caught.value.server_code == "ValidationFailed"
        assert "name: Invalid" in caught.value.detail

    @pytest.mark.parametrize("files", [None, [], [{"size": 0, "sha1": "0" * 40}], [{"size": 3, "sha1": "x"}]])
    def test_a_manifest_that_proves_nothing(self, files: object) -> None:
        with pytest.raises(HttpError):
            expected_file({"uuid": UUID, "files": files})


class TestSignatures:
    def users(self, key: Path) -> dict[str, Any]:
        from cryptography.hazmat.primitives.serialization import load_ssh_public_key

        return {"alice": load_ssh_public_key(key.with_suffix(".pub").read_bytes())}

    def test_by_file_and_agent(self, http: Http, key: Path, agent: dict[str, str]) -> None:
        with ImgapiServer(users=self.users(key)) as server:
            bare = ImgapiClient(server.url, http=http)
            with pytest.raises(HttpError, match="UnauthorizedError") as caught:
                bare.import_image({"uuid": UUID})
            assert caught.value.status == 401
            for signer in (signer_of(key).sign, agent_signer(agent)):
                client = ImgapiClient(server.url, http=http, account=Account(user="alice", signer=signer))
                client.ping()
            other = ImgapiClient(
                server.url, http=http, account=Account(user="bob", signer=signer_of(key).sign)
            )
            with pytest.raises(HttpError, match="UnauthorizedError"):
                other.ping()

    def test_clock_skew_is_explained(self, http: Http, key: Path) -> None:
        with ImgapiServer(users=self.users(key), clock=4000) as server:
            client = ImgapiClient(
                server.url, http=http, account=Account(user="alice", signer=signer_of(key).sign)
            )
            with pytest.raises(HttpError) as caught:
                client.ping()
            assert "behind the server's" in caught.value.hint

    def test_publish_signed(self, bus: Notes, key: Path, tmp_path: Path) -> None:
        with ImgapiServer(users=self.users(key)) as server:
            options = PublishOptions(user="alice", key=str(key), limits=LIMITS)
            publish(make_bundle(tmp_path), server.url, options=options, bus=bus)
            assert server.images[UUID].manifest["state"] == "active"


class TestPublishing:
    def publish(self, bundle: Bundle, server: ImgapiServer, bus: Notes) -> Published:
        return publish(bundle, server.url, options=PublishOptions(limits=LIMITS), bus=bus)

    def test_and_again(self, imgapi_server: ImgapiServer, bus: Notes, tmp_path: Path) -> None:
        bundle = make_bundle(tmp_path)
        assert self.publish(bundle, imgapi_server, bus).state == "published"
        stored = imgapi_server.images[UUID]
        assert stored.manifest["state"] == "active"
        assert stored.file == bundle.artifacts[0].read_bytes()
        assert stored.manifest["published_at"] == "2026-01-02T03:04:05Z"
        assert self.publish(make_bundle(tmp_path), imgapi_server, bus).state == "already"
        assert imgapi_server.calls("PUT") == 1
        assert bus.jobs == [(f"push {bundle.artifacts[0].name}", len(stored.file), len(stored.file))]

    @pytest.mark.parametrize("where", ["import", "PUT", "activate"])
    def test_a_lost_reply(self, imgapi_server: ImgapiServer, bus: Notes, tmp_path: Path, where: str) -> None:
        if where == "PUT":
            imgapi_server.fail("lost", method="PUT")
        else:
            # The path has no query, so the n-th POST is meant: the first imports, the second activates.
            imgapi_server.fail("", method="POST", times=0 if where == "import" else 1)
            imgapi_server.fail("lost", method="POST")
        assert self.publish(make_bundle(tmp_path), imgapi_server, bus).state == "published"
        assert imgapi_server.images[UUID].manifest["state"] == "active"

    def test_an_import_that_was_lost_before(
        self, imgapi_server: ImgapiServer, bus: Notes, tmp_path: Path
    ) -> None:
        imgapi_server.fail("503", method="POST")
        assert self.publish(make_bundle(tmp_path), imgapi_server, bus).state == "published"

    @pytest.mark.parametrize("kind", ["400", "early-422", "503", "flip"])
    def test_is_undone(self, imgapi_server: ImgapiServer, bus: Notes, tmp_path: Path, kind: str) -> None:
        imgapi_server.fail(kind, method="PUT", times=9)
        with pytest.raises(PublishError) as caught:
            self.publish(make_bundle(tmp_path), imgapi_server, bus)
        assert caught.value.code == ExitCode.PUBLISH
        assert UUID not in imgapi_server.images
        imgapi_server.faults.clear()
        assert self.publish(make_bundle(tmp_path), imgapi_server, bus).state == "published"

    def test_an_undo_that_fails_hides_nothing(
        self, imgapi_server: ImgapiServer, bus: Notes, tmp_path: Path
    ) -> None:
        imgapi_server.fail("400", method="PUT")
        imgapi_server.fail("503", method="DELETE", times=9)
        with pytest.raises(PublishError, match="injected"):
            self.publish(make_bundle(tmp_path), imgapi_server, bus)
        assert any("is still there" in text for text in bus.texts)
        imgapi_server.faults.clear()
        assert self.publish(make_bundle(tmp_path), imgapi_server, bus).state == "published"

    def test_it_is_not_undone_when_it_may_be_active(
        self, imgapi_server: ImgapiServer, bus: Notes, tmp_path: Path
    ) -> None:
        imgapi_server.fail("", method="POST")
        imgapi_server.fail("lost", method="POST")
        imgapi_server.fail("", path="/images/", times=1)
        imgapi_server.fail("503", path="/images/", times=9)
        with pytest.raises(PublishError, match="did not say") as caught:
            self.publish(make_bundle(tmp_path), imgapi_server, bus)
        assert caught.value.retryable
        imgapi_server.faults.clear()
        assert self.publish(make_bundle(tmp_path), imgapi_server, bus).state == "already"

    def test_another_image_under_the_uuid(
        self, imgapi_server: ImgapiServer, bus: Notes, tmp_path: Path
    ) -> None:
        self.publish(make_bundle(tmp_path / "a"), imgapi_server, bus)
        with pytest.raises(PublishError, match="another image") as caught:
            self.publish(make_bundle(tmp_path / "b", version="2.0.0"), imgapi_server, bus)
        assert "version" in caught.value.detail
        with pytest.raises(PublishError, match="another file"):
            self.publish(make_bundle(tmp_path / "c", content=b"else"), imgapi_server, bus)

    def test_files_that_are_not_the_manifests(
        self, imgapi_server: ImgapiServer, bus: Notes, tmp_path: Path
    ) -> None:
        bundle = make_bundle(tmp_path)
        bundle.artifacts[0].write_bytes(b"changed")
        with pytest.raises(PublishError, match="no image file"):
            self.publish(bundle, imgapi_server, bus)
        assert imgapi_server.calls("POST") == 0

    def test_an_origin_that_is_not_there(
        self, imgapi_server: ImgapiServer, bus: Notes, tmp_path: Path
    ) -> None:
        origin = "bbbbbbbb-0000-4000-8000-000000000001"
        with pytest.raises(PublishError, match="OriginDoesNotExist") as caught:
            self.publish(make_bundle(tmp_path, origin=origin), imgapi_server, bus)
        assert "origin" in caught.value.hint
