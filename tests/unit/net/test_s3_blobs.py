"""Compare-and-set in S3, with a stand-in for boto3's client: conditions, servers that ignore them, lost responses."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable
from typing import Any

import pytest

from buildstep.net.http import Http
from buildstep.net.request import HttpOptions
from buildstep.net.s3_blobs import BlobClient
from buildstep.net.s3_errors import S3Error
from tests.servers.fixtures import Notes, bus

__all__ = ["bus"]

pytest.importorskip("botocore")


class Bucket:
    """What of boto3's client is called. obeys: conditions; lost: how many writes are repeated, as boto3 repeats
    a call whose response was lost; broken: how many bodies break off."""

    def __init__(self, *, obeys: bool = True, deletes: bool = True, batches: bool = True) -> None:
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.obeys, self.deletes, self.batches = obeys, deletes, batches
        self.lost = self.broken = 0
        self.calls: list[str] = []
        self._guard = threading.Lock()

    def _fail(self, call: str, code: str, status: int) -> Exception:
        from botocore.exceptions import ClientError

        row: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
        error: Exception = ClientError(row, call)
        return error

    def _etag(self, key: str) -> str | None:
        return f'"{hashlib.md5(self.objects[key][0]).hexdigest()}"' if key in self.objects else None

    def _check(self, key: str, given: dict[str, Any]) -> None:
        if ("IfNoneMatch" in given and key in self.objects) or (
            "IfMatch" in given and self._etag(key) != given["IfMatch"]
        ):
            raise self._fail("PutObject", "PreconditionFailed", 412)

    def put_object(self, **given: Any) -> dict[str, Any]:
        key = given["Key"]
        with self._guard:
            self.calls.append("put")
            for _ in range(1 + min(1, self.lost)):
                if self.obeys:
                    self._check(key, given)
                self.objects[key] = (given["Body"], given["Metadata"])
            self.lost = max(0, self.lost - 1)
            return {}

    def delete_object(self, **given: Any) -> dict[str, Any]:
        self.calls.append("delete")
        if self.deletes:
            self._check(given["Key"], given)
        self.objects.pop(given["Key"], None)
        return {}

    def delete_objects(self, **given: Any) -> dict[str, Any]:
        self.calls.append("delete many")
        if not self.batches:
            raise self._fail("DeleteObjects", "NotImplemented", 501)
        refused = []
        for row in given["Delete"]["Objects"]:
            if row["Key"].endswith("locked"):
                refused.append({"Key": row["Key"], "Code": "AccessDenied"})
            self.objects.pop(row["Key"], None)
        return {"Errors": refused} if refused else {}

    def head_object(self, **given: Any) -> dict[str, Any]:
        self.calls.append("head")
        key = given["Key"]
        if key not in self.objects:
            raise self._fail("HeadObject", "404", 404)
        data, metadata = self.objects[key]
        return {"ContentLength": len(data), "Metadata": metadata, "ETag": self._etag(key)}

    def get_object(self, **given: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.head_object(**given)
        data, wanted = self.objects[given["Key"]][0], given.get("Range", "")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            if not first and int(last) > len(data):
                raise self._fail("GetObject", "InvalidRange", 416)
            data = data[int(first) : int(last) + 1 if last else None] if first else data[-int(last) :]
            found["ContentRange"] = "bytes"
        found["ContentLength"] = len(data)
        if self.broken:
            self.broken -= 1
            data = data[:-1]
        return {**found, "Body": io.BytesIO(data)}


Make = Callable[[Bucket], BlobClient]


@pytest.fixture
def client(bus: Notes) -> Make:
    def make(bucket: Bucket) -> BlobClient:
        http = Http(environ={}, options=HttpOptions(attempts=3, backoff=0.001), bus=bus)
        found = BlobClient("s3://b/p", http=http, probe="tmp/probe")
        found._made = bucket
        return found

    return make


@pytest.mark.parametrize("obeys", [True, False])
@pytest.mark.parametrize("deletes", [True, False])
def test_a_value_changes_only_if_it_is_still_as_it_was(
    client: Make, bus: Notes, obeys: bool, deletes: bool
) -> None:
    s3 = client(Bucket(obeys=obeys, deletes=deletes))
    assert s3.swap("x", b"one", None)
    assert not s3.swap("x", b"two", None)
    found = s3.load("x")
    assert found is not None
    assert s3.swap("x", b"two", found[1].etag)
    assert not s3.swap("x", b"three", found[1].etag)
    assert not s3.delete_if("x", found[1].etag)
    assert s3.get("x") == b"two"
    assert not s3.swap("gone", b"x", '"00"')
    assert not s3.delete_if("gone", '"00"')
    again = s3.load("x")
    assert again is not None
    assert s3.delete_if("x", again[1].etag)
    assert s3.load("x") is None
    assert len([text for text in bus.texts if "ignores conditions" in text]) == (0 if obeys else 1)


def test_what_the_server_can_do_is_asked_once(client: Make) -> None:
    bucket = Bucket()
    for _ in range(2):
        s3 = client(bucket)
        s3.swap("a", b"", None)
        s3.swap("b", b"", None)
    assert bucket.calls.count("put") == (2 + 2) + (1 + 2)


def test_our_own_write_repeated_after_a_lost_response_is_ours(client: Make) -> None:
    bucket = Bucket()
    s3 = client(bucket)
    s3.swap("other", b"", None)
    bucket.lost = 1
    assert s3.swap("x", b"same", None)
    bucket.lost = 1
    assert s3.swap("x", b"new", s3.load("x")[1].etag)  # type: ignore[index]
    # Somebody else's write of the same bytes is not.
    assert not s3.swap("x", b"new", None)


def test_a_body_that_breaks_off_is_read_again(client: Make, bus: Notes) -> None:
    bucket = Bucket()
    s3 = client(bucket)
    s3.swap("x", b"0123456789", None)
    bucket.broken = 2
    assert s3.read("x") == b"0123456789"
    assert len(bus.texts) == 2
    bucket.broken = 3
    with pytest.raises(S3Error, match="came with 9 of 10 bytes") as caught:
        s3.get("x")
    assert caught.value.retryable


def test_the_last_bytes_of_what_is_shorter(client: Make) -> None:
    s3 = client(Bucket())
    s3.swap("x", b"0123456789", None)
    assert s3.read("x", -3) == b"789"
    assert s3.read("x", -64) == b"0123456789"
    assert s3.read("x", -64, 2) == b"01"
    assert s3.read("x", 4, 3) == b"456"
    assert s3.read("x", 4, 0) == b""
    assert s3.read("gone", 4, 0) is None


@pytest.mark.parametrize("batches", [True, False])
def test_many_are_deleted_with_few_calls(client: Make, batches: bool) -> None:
    bucket = Bucket(batches=batches)
    s3 = client(bucket)
    names = [f"n{number}" for number in range(1200)]
    bucket.objects = {f"p/{name}": (b"", {}) for name in [*names, "kept"]}
    s3.delete_many(names)
    assert list(bucket.objects) == ["p/kept"]
    assert bucket.calls.count("delete many") == 2
    s3.delete_many([])


def test_one_that_cannot_be_deleted_is_named(client: Make) -> None:
    with pytest.raises(S3Error, match=r"p/locked.*AccessDenied"):
        client(Bucket()).delete_many(["a", "locked"])
