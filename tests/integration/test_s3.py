"""The S3 client and publisher against two real stores: one that heeds conditions on writes, one that does not."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from buildstep.errors import ExitCode, ImageError, PublishError, UsageError
from buildstep.images.publishers import Bundle, Published, PublishOptions, publish
from buildstep.images.repositories import BucketRepository
from buildstep.images.resolve import fetch_files, resolve
from buildstep.net.http import Http
from buildstep.net.request import HttpOptions
from buildstep.net.s3 import S3Client
from buildstep.net.s3_errors import S3Error, Taken, parse_s3
from buildstep.system.digest import Expected
from tests.servers.fixtures import Notes, S3Store, bus, rclone, weed
from tests.unit.net.test_imgapi import UUID, make_bundle

__all__ = ["bus", "rclone", "weed"]

OPTIONS = HttpOptions(connect=5, response=15, idle=10, attempts=3, backoff=0.05)


def client(store: S3Store, prefix: str, bus: Notes, **environ: str) -> S3Client:
    merged = {**store.environ, **environ}
    http = Http(environ=merged, options=OPTIONS, bus=bus)
    return S3Client(f"s3://{store.bucket}/{prefix}", http=http, endpoint=store.endpoint)


@pytest.fixture(params=["weed", "rclone"])
def store(request: pytest.FixtureRequest) -> S3Store:
    found: S3Store = request.getfixturevalue(request.param)
    return found


def test_objects(store: S3Store, bus: Notes, tmp_path: Path) -> None:
    s3 = client(store, "objects", bus)
    data = os.urandom(100_000)
    info = s3.put("a/b c", data)
    assert info.sha256 == hashlib.sha256(data).hexdigest()
    assert s3.get("a/b c") == data
    assert s3.get("missing") is None
    assert s3.head("missing") is None
    for number in range(5):
        s3.put(f"a/{number}", b"x")
    assert [row.key for row in s3.list("a/")] == ["a/0", "a/1", "a/2", "a/3", "a/4", "a/b c"]
    assert list(s3.list("nothing/")) == []
    expected = Expected(size=len(data), sha256=info.sha256)
    assert s3.download("a/b c", tmp_path / "f", expected=expected).path.read_bytes() == data
    (tmp_path / "g.partial").write_bytes(data[:50_000])
    assert s3.download("a/b c", tmp_path / "g", expected=expected).fetched == 50_000
    s3.delete("a/b c")
    s3.delete("a/b c")
    assert s3.head("a/b c") is None


def test_in_parts(store: S3Store, bus: Notes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buildstep.net.s3.MULTIPART_FROM", 6 << 20)
    monkeypatch.setattr("buildstep.net.s3._PART", 5 << 20)
    path = tmp_path / "big"
    path.write_bytes(os.urandom((11 << 20) + 777))
    s3 = client(store, "parts", bus)
    info = s3.put("big", path, if_absent=True)
    assert info.size == path.stat().st_size
    assert bus.jobs == [("push big", info.size, info.size)]
    expected = Expected(size=info.size, sha256=info.sha256)
    assert s3.download("big", tmp_path / "back", expected=expected).path.read_bytes() == path.read_bytes()


def test_a_name_is_taken_once(store: S3Store, bus: Notes) -> None:
    s3 = client(store, "taken", bus)
    s3.put("name", b"first", if_absent=True)
    with pytest.raises(Taken):
        s3.put("name", b"second", if_absent=True)
    assert s3.get("name") == b"first"
    obeys = store.folder is None
    assert any("ignores conditions" in text for text in bus.texts) is not obeys


def test_many_writers_of_one_name(weed: S3Store, bus: Notes) -> None:
    results: list[str] = []

    def write(number: int) -> None:
        try:
            client(weed, "race", bus).put("name", b"%d" % number, if_absent=True)
            results.append("won")
        except Taken:
            results.append("taken")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(results) == ["taken"] * 5 + ["won"]


def test_errors(weed: S3Store, bus: Notes) -> None:
    s3 = S3Client("s3://no-such-bucket", http=Http(environ=weed.environ, bus=bus), endpoint=weed.endpoint)
    with pytest.raises(S3Error, match="NoSuchBucket") as caught:
        s3.put("x", b"x")
    assert caught.value.hint
    with pytest.raises(S3Error, match="SignatureDoesNotMatch") as caught:
        client(weed, "x", bus, AWS_SECRET_ACCESS_KEY="wrong").put("x", b"x")
    assert "wrong" not in caught.value.message
    read_only = {"AWS_ACCESS_KEY_ID": "AKRO", "AWS_SECRET_ACCESS_KEY": "skreadonly"}
    with pytest.raises(S3Error, match="AccessDenied"):
        client(weed, "x", bus, **read_only).put("x", b"x")
    http = Http(environ=weed.environ, options=HttpOptions(connect=1, response=1, attempts=1))
    nobody = "http://127.0.0.1:1"
    s3 = S3Client(f"s3://{weed.bucket}", http=http, endpoint=nobody)
    with pytest.raises(S3Error) as caught:
        s3.head("x")
    assert caught.value.retryable
    for uri in ("s3:bucket", "s3://", "http://x/y", "s3://b/../c"):
        with pytest.raises(UsageError):
            parse_s3(uri)


def push(made: Bundle, store: S3Store, prefix: str, bus: Notes) -> Published:
    options = PublishOptions(environ=store.environ, endpoint=store.endpoint)
    return publish(made, f"s3://{store.bucket}/{prefix}", options=options, bus=bus)


def test_publish_and_import(store: S3Store, bus: Notes, tmp_path: Path) -> None:
    made = make_bundle(tmp_path)
    assert push(made, store, "pub", bus).state == "published"
    assert push(make_bundle(tmp_path), store, "pub", bus).state == "already"
    repository = BucketRepository(client(store, "pub", bus))
    chain = resolve("hello@1.0.0", [repository], bus=bus)
    assert chain[0].uuid == UUID
    assert [row["uuid"] for row in repository.images(name="hello")] == [UUID]
    bus.jobs.clear()
    done = fetch_files(chain, [repository], tmp_path, bus=bus)
    size = done[0].file.size
    assert bus.jobs == [("download hello@1.0.0", size, size)]
    assert done[0].file.path.read_bytes() == made.artifacts[0].read_bytes()
    with pytest.raises(PublishError, match="published already") as caught:
        push(make_bundle(tmp_path / "b", description="other"), store, "pub", bus)
    assert caught.value.code == ExitCode.PUBLISH


def test_what_proves_an_image_may_come_later(store: S3Store, bus: Notes, tmp_path: Path) -> None:
    """The files of an image never change; more is said of it, and what was said stays."""
    made = make_bundle(tmp_path)
    place = made.stem.parent / f"{made.stem.name}.intoto.jsonl"
    assert push(made, store, "proved", bus).state == "published"
    place.write_bytes(b"{}\n")
    assert push(make_bundle(tmp_path), store, "proved", bus).state == "published"
    assert push(make_bundle(tmp_path), store, "proved", bus).state == "already"
    folder = client(store, "proved/hello/1.0.0", bus)
    assert folder.get(place.name) == b"{}\n"
    place.unlink()
    assert push(make_bundle(tmp_path), store, "proved", bus).state == "already"
    assert place.name in (folder.get("index.json") or b"").decode()


def test_an_object_cut_short_in_the_store(rclone: S3Store, bus: Notes, tmp_path: Path) -> None:
    push(make_bundle(tmp_path), rclone, "cut", bus)
    assert rclone.folder is not None
    path = rclone.folder / "cut/images" / UUID / "file"
    path.write_bytes(path.read_bytes()[:-5])
    repository = BucketRepository(client(rclone, "cut", bus))
    with pytest.raises(ImageError, match=UUID):
        fetch_files(resolve(UUID, [repository], bus=bus), [repository], tmp_path, bus=bus)
    # Publishing again puts it right: content that is not as it should be is sent again.
    assert push(make_bundle(tmp_path), rclone, "cut", bus).state == "published"
    assert fetch_files(
        resolve(UUID, [repository], bus=bus),
        [BucketRepository(client(rclone, "cut", bus))],
        tmp_path,
        bus=bus,
    )
