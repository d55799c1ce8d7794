"""A bucket that does not list as it was asked to, or not for us, or that tells what cannot be."""

from __future__ import annotations

import pytest

from buildstep.assets.interface import AssetStore
from buildstep.assets.names import Name
from buildstep.assets.s3_store import S3Assets
from buildstep.errors import StoreError
from buildstep.events import Bus
from buildstep.files.interface import Access, Unlistable
from tests.unit.net.test_s3_direct import KEYS, Server, says, sends

ROW = (
    b"<Contents><Key>%s</Key><Size>1</Size><ETag>e</ETag>"
    b"<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
)


def store_at(server: Server) -> AssetStore:
    return S3Assets("s3://bucket", Access(environ=KEYS, bus=Bus(), endpoint=server.url))


def test_assets_of_other_services_are_left_out_where_a_store_ignores_the_prefix() -> None:
    rows = ROW % b"web-1.tar.gz" + ROW % b"db-1.tar.gz"
    server = Server(says("200 OK", b"<R>" + rows + b"</R>"))
    try:
        store = store_at(server)
        assert [asset.name.file for asset in store.list("web")] == ["web-1.tar.gz"]
        assert len(list(store.list())) == 2
    finally:
        server.close()


@pytest.mark.parametrize(("code", "unlistable"), [("AccessDenied", True), ("NoSuchBucket", False)])
def test_who_may_not_list_is_told_apart(code: str, unlistable: bool) -> None:
    server = Server(says("403 Forbidden", f"<Error><Code>{code}</Code></Error>".encode()))
    try:
        with pytest.raises(StoreError, match=code) as caught:
            list(store_at(server).list("web"))
        assert isinstance(caught.value, Unlistable) is unlistable
    finally:
        server.close()


def test_metadata_that_is_made_to_do_harm_is_an_error_of_the_store() -> None:
    server = Server(says("200 OK", b"", "x-amz-meta-sha256: ../../etc/passwd"))
    try:
        store = store_at(server)
        name = Name("web", "1", ".tar.gz")
        with pytest.raises(StoreError, match="the metadata of s3:"):
            store.details(name)
        with pytest.raises(StoreError, match="is no sha256"), store.open(name):
            pass
    finally:
        server.close()


def test_another_object_is_no_rest_of_the_first_where_a_store_ignores_the_condition() -> None:
    half = sends(b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\nETag: "a"\r\n\r\nAAAA')
    server = Server(half, says("200 OK", b"BBBBBBBB", 'ETag: "b"'))
    try:
        name = Name("web", "1", ".tar.gz")
        with (
            pytest.raises(StoreError, match="was replaced while it was read"),
            store_at(server).open(name) as incoming,
        ):
            list(iter(lambda: incoming.read(4), b""))
    finally:
        server.close()


def test_an_object_without_a_length_is_told() -> None:
    server = Server(sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nAAAA\r\n0\r\n\r\n"))
    try:
        name = Name("web", "1", ".tar.gz")
        with pytest.raises(StoreError, match="does not say how long it is"), store_at(server).open(name):
            pass
    finally:
        server.close()
