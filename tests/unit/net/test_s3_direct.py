"""S3 by calls of our own: what a server may do to a call, on a socket that does it."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from buildstep.net import s3_direct
from buildstep.net.connections import Broken
from buildstep.net.errors import HttpError
from buildstep.net.http import Http
from buildstep.net.request import HttpOptions
from buildstep.net.s3_direct import DirectS3
from buildstep.net.s3_errors import S3Error, Taken
from tests.servers.fixtures import Notes, bus

__all__ = ["bus"]

FAST = HttpOptions(connect=2, response=0.6, idle=0.4, min_rate=2_000_000, attempts=3, backoff=0.01)
KEYS = {"AWS_ACCESS_KEY_ID": "AKTEST", "AWS_SECRET_ACCESS_KEY": "sktestsecret"}
SHA256 = "ab" * 32

Talk = Callable[[socket.socket, bytes], bool | None]
"""Answers a request, of which the bytes so far are given; true to go on with the connection."""


class Server:
    """A server that answers each request by the next of `talks`, then by the last one. whole: it reads the
    whole body first."""

    def __init__(self, *talks: Talk) -> None:
        self._talks = list(talks)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.requests: list[bytes] = []
        self.connections = 0
        self.whole = False
        self._guard = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._listening.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        with contextlib.suppress(OSError), link:
            while True:
                data = b""
                while b"\r\n\r\n" not in data:
                    more = link.recv(65536)
                    if not more:
                        return
                    data += more
                head, _, body = data.partition(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head) if self.whole else None
                while length is not None and len(body) < int(length[1]):
                    body += link.recv(65536)
                with self._guard:
                    self.requests.append(head)
                    talk = self._talks.pop(0) if len(self._talks) > 1 else self._talks[0]
                if not talk(link, body):
                    return

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # the thread that accepts would go on
        self._listening.close()


def says(status: str, body: bytes = b"", *headers: str, keep: bool = True) -> Talk:
    """A talk that reads no body and sends this response."""

    def talk(link: socket.socket, _body: bytes) -> bool:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        link.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return keep

    return talk


def resets(link: socket.socket, _body: bytes) -> None:
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def sends(data: bytes, *, every: float = 0.0, pause: float = 0.0) -> Talk:
    """A talk that sends these bytes, one by one with a pause between, and then pauses."""

    def talk(link: socket.socket, _body: bytes) -> None:
        if every:
            for index in range(len(data)):
                link.sendall(data[index : index + 1])
                time.sleep(every)
        else:
            link.sendall(data)
        time.sleep(pause)

    return talk


Serve = Callable[..., tuple[Server, DirectS3]]


@pytest.fixture
def serve(bus: Notes) -> Iterator[Serve]:
    servers: list[Server] = []

    def make(*talks: Talk, prefix: str = "", **environ: str) -> tuple[Server, DirectS3]:
        server = Server(*talks)
        servers.append(server)
        http = Http(environ={**KEYS, **environ}, options=FAST, bus=bus)
        return server, DirectS3(f"s3://bucket{prefix}", http=http, endpoint=server.url)

    yield make
    for server in servers:
        server.close()


OK = says("200 OK", b"", 'ETag: "e"')


def put(client: DirectS3, key: str = "k", body: bytes | Path = b"data", **more: bool) -> None:
    size = len(body) if isinstance(body, bytes) else body.stat().st_size
    client.put(key, body, size=size, sha256=SHA256, headers={"x-amz-meta-a": "b"}, **more)


class TestFaults:
    @pytest.mark.parametrize(
        "fault",
        [
            says("503 Slow Down", b"<Error><Code>SlowDown</Code></Error>"),
            says("500 Internal Server Error", keep=False),
            resets,
            sends(b"", pause=0.9),
            sends(b"HTTP/1.1 200 OK\r\nETag: drip drip drip drip\r\n\r\n", every=0.05),
            sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"),
            sends(b"HTTP/1.1 200 OK\r\nContent-Le"),
            sends(b"no http at all\r\n\r\n"),
        ],
        ids=["503", "500", "reset", "silence", "drip", "short body", "short head", "no http"],
    )
    def test_what_passes_is_tried_again(self, serve: Serve, fault: Talk, bus: Notes) -> None:
        server, client = serve(fault, OK)
        begin = time.monotonic()
        put(client)
        assert len(server.requests) == 2
        assert len(bus.texts) == 1
        assert "trying again" in bus.texts[0]
        assert time.monotonic() - begin < 3

    def test_what_does_not_pass_is_told_once_tried_enough(self, serve: Serve) -> None:
        server, client = serve(sends(b"", pause=0.9))
        with pytest.raises(Broken, match=r"PUT http://127.0.0.1:[0-9]+/bucket/k") as caught:
            put(client)
        assert caught.value.retryable
        assert len(server.requests) == 3
        assert "sktestsecret" not in str(caught.value)

    def test_nobody_there(self, serve: Serve) -> None:
        server, client = serve(OK)
        server.close()
        with pytest.raises(HttpError, match="Connection refused"):
            client.head("k")

    def test_a_body_that_stops(self, serve: Serve) -> None:
        data = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50_000
        _, client = serve(sends(data, pause=3))
        begin = time.monotonic()
        with client.open("k") as found:
            assert found is not None
            with pytest.raises(Broken, match="broke off"):
                found[1].read_all(1 << 20)
        assert time.monotonic() - begin < 2

    def test_an_idle_connection_that_the_server_closed_is_no_failure(self, serve: Serve, bus: Notes) -> None:
        server, client = serve(says("200 OK", keep=False), OK)
        put(client)
        time.sleep(0.1)
        put(client)
        assert (len(server.requests), server.connections) == (2, 2)
        assert bus.texts == []

    def test_one_that_is_closed_in_the_very_moment_neither(self, serve: Serve, bus: Notes) -> None:
        server, client = serve(OK, lambda _link, _body: None, OK)
        put(client)
        put(client)
        assert (len(server.requests), server.connections) == (3, 2)
        assert bus.texts == []

    def test_connections_are_used_again(self, serve: Serve) -> None:
        server, client = serve(OK)
        for _ in range(5):
            put(client)
            client.head("k")
        assert server.connections == 1

    def test_an_upload_that_is_refused_at_once(self, serve: Serve, tmp_path: Path) -> None:
        refused = says("403 Forbidden", b"<Error><Code>AccessDenied</Code></Error>", keep=False)
        server, client = serve(refused)
        (tmp_path / "big").write_bytes(bytes(30 << 20))
        with pytest.raises((S3Error, Broken)) as caught:
            put(client, body=tmp_path / "big")
        assert isinstance(caught.value, S3Error) or len(server.requests) == 3

    def test_a_file_that_becomes_shorter(self, serve: Serve, tmp_path: Path) -> None:
        _, client = serve(OK)
        path = tmp_path / "f"
        path.write_bytes(b"x" * 1000)
        with pytest.raises(HttpError):
            client.put("k", path, size=2000, sha256=SHA256, headers={})


class TestParts:
    """An upload in parts, each of its calls answered by what the call is."""

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("buildstep.net.s3_direct.MULTIPART_FROM", 100)
        monkeypatch.setattr("buildstep.net.s3_direct._PART", 200)

    def begun(self, *completions: Talk) -> list[Talk]:
        """Talks of an upload of two parts, which ends in one of these ways, and is aborted then."""
        upload = says("200 OK", b"<I><UploadId>u1</UploadId></I>")
        return [upload, OK, OK, *completions, says("204 No Content")]

    def test_a_completion_whose_response_was_lost_asks_who_wrote(self, serve: Serve, tmp_path: Path) -> None:
        gone = says("404 Not Found", b"<Error><Code>NoSuchUpload</Code></Error>")
        server, client = serve(*self.begun(resets, gone))
        server.whole = True
        (tmp_path / "f").write_bytes(bytes(300))
        with pytest.raises(Taken):
            put(client, body=tmp_path / "f")

    def test_an_error_after_a_good_head_is_tried_again(self, serve: Serve, tmp_path: Path) -> None:
        late = says("200 OK", b"<Error><Code>InternalError</Code></Error>")
        server, client = serve(*self.begun(late, says("200 OK", b"<C/>")))
        server.whole = True
        (tmp_path / "f").write_bytes(bytes(300))
        put(client, body=tmp_path / "f")
        assert len(server.requests) == 5

    def test_a_store_that_begins_none_does_not_lose_the_object(self, serve: Serve, tmp_path: Path) -> None:
        server, client = serve(OK)
        path = tmp_path / "large"
        with path.open("wb") as stream:
            stream.truncate(s3_direct.MULTIPART_FROM + 1)
        with pytest.raises(S3Error, match="has begun no upload in parts"):
            put(client, body=path)
        assert not [request for request in server.requests if request.startswith(b"DELETE")]

    def test_one_that_fails_is_aborted(self, serve: Serve, tmp_path: Path) -> None:
        refused = says("403 Forbidden", b"<Error><Code>AccessDenied</Code></Error>")
        server, client = serve(*self.begun(refused))
        server.whole = True
        (tmp_path / "f").write_bytes(bytes(300))
        with pytest.raises(S3Error, match="AccessDenied"):
            put(client, body=tmp_path / "f")
        assert server.requests[-1].startswith(b"DELETE /bucket/k?uploadId=u1 ")


class TestAnswers:
    def test_taken_and_missing(self, serve: Serve) -> None:
        _, client = serve(says("412 Precondition Failed", b"<Error><Code>PreconditionFailed</Code></Error>"))
        with pytest.raises(Taken):
            put(client, if_absent=True)
        _, client = serve(says("409 Conflict", b"<Error><Code>ConditionalRequestConflict</Code></Error>"))
        with pytest.raises(Taken):
            put(client, if_absent=True)
        _, client = serve(says("404 Not Found", b"<Error><Code>NoSuchKey</Code></Error>"))
        with client.open("k") as found:
            assert found is None

    def test_another_region_is_asked_there(self, serve: Serve) -> None:
        elsewhere = says(
            "400 Bad Request",
            b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>",
            "x-amz-bucket-region: eu-west-3",
        )
        server, client = serve(elsewhere, OK)
        put(client)
        assert b"/us-east-1/s3/" in server.requests[0]
        assert b"/eu-west-3/s3/" in server.requests[1]
        put(client)
        assert b"/eu-west-3/s3/" in server.requests[2]

    def test_threads_that_hear_of_another_region_together_all_ask_there(self, serve: Serve) -> None:
        both = threading.Barrier(2)

        def moved(link: socket.socket, body: bytes) -> bool | None:
            both.wait(5)
            return says("301 Moved Permanently", b"", "x-amz-bucket-region: eu-west-3")(link, body)

        server, client = serve(moved, moved, OK)
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(put, client, key) for key in "ab"]
            for job in jobs:
                job.result()
        assert sum(b"/eu-west-3/s3/" in request for request in server.requests) == 2

    def test_a_session_token_is_sent_and_signed(self, serve: Serve) -> None:
        server, client = serve(OK, AWS_SESSION_TOKEN="tok")
        put(client)
        assert b"x-amz-security-token: tok" in server.requests[0]
        assert b"x-amz-security-token," in server.requests[0].replace(b", Signature", b",")

    def test_a_proxy(self, serve: Serve) -> None:
        proxy = Server(OK)
        server, client = serve(OK, http_proxy=proxy.url.replace("//", "//me:secret@"))
        put(client)
        assert server.requests == []
        assert proxy.requests[0].startswith(f"PUT {server.url}/bucket/k HTTP/1.1".encode())
        assert b"Proxy-Authorization: Basic" in proxy.requests[0]
        _, client = serve(OK, http_proxy=proxy.url, no_proxy="127.0.0.1")
        put(client)
        assert len(proxy.requests) == 1
        proxy.close()

    @pytest.mark.parametrize(
        "page",
        [b"<html>log in</html>x", b"", b"<R><IsTruncated>true</IsTruncated></R>", b"<R><Contents><Size>x</Size></Contents></R>"],
        ids=["html", "empty", "no token", "no number"],
    )  # fmt: skip
    def test_a_listing_that_is_none(self, serve: Serve, page: bytes) -> None:
        _, client = serve(says("200 OK", page))
        with pytest.raises(S3Error, match="listing"):
            list(client.list())

    def test_a_listing_without_an_end_is_no_listing(self, serve: Serve) -> None:
        page = b"<R><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></R>"
        server, client = serve(says("200 OK", page))
        with pytest.raises(S3Error, match="the same page again and again"):
            list(client.list())
        assert len(server.requests) == 2

    def test_pages(self, serve: Serve) -> None:
        def page(rows: str, more: str) -> Talk:
            return says("200 OK", f'<L xmlns="urn:x">{more}{rows}</L>'.encode())

        row = (
            "<Contents><Key>p/{0}</Key><Size>{0}</Size><ETag>&quot;{0}&quot;</ETag>"
            "<LastModified>2026-11-29T22:00:00.000Z</LastModified></Contents>"
        )
        more = "<IsTruncated>true</IsTruncated><NextContinuationToken>a+b=</NextContinuationToken>"
        server, client = serve(
            page(row.format(1) + row.format(2), more), page(row.format(3), ""), prefix="/p"
        )
        found = list(client.list())
        assert [(item.key, item.size, item.etag) for item in found] == [
            ("1", 1, '"1"'), ("2", 2, '"2"'), ("3", 3, '"3"'),
        ]  # fmt: skip
        assert found[0].modified == 1796000400.0 - 10800
        assert b"prefix=p%2F" in server.requests[0]
        assert b"continuation-token=a%2Bb%3D" in server.requests[1]


def test_amazons_addresses(bus: Notes) -> None:
    from buildstep.net.s3_account import Account

    assert Account({**KEYS, "AWS_REGION": "eu-west-3"}).address("b") == (
        "https://b.s3.eu-west-3.amazonaws.com", "/",
    )  # fmt: skip
    assert Account({**KEYS}).address("a.b") == ("https://s3.us-east-1.amazonaws.com", "/a.b/")
    assert Account({**KEYS, "AWS_REGION": "cn-north-1"}).address("b")[0].endswith(".amazonaws.com.cn")
    assert Account(KEYS, "http://host:1/base/").address("b") == ("http://host:1", "/base/b/")


def test_a_call_that_waits_can_be_ended(serve: Serve) -> None:
    _, client = serve(sends(b"", pause=5))
    client.http.options = HttpOptions(attempts=3)
    threading.Timer(0.3, client.interrupt).start()
    begin = time.monotonic()
    with pytest.raises(HttpError, match=r"stopped|broke|closed"):
        put(client)
    assert time.monotonic() - begin < 2
    with pytest.raises(S3Error, match="stopped"):
        put(client)


def test_an_upload_that_nobody_takes(serve: Serve, tmp_path: Path) -> None:
    """The server reads the head and nothing else, and keeps the connection."""
    _, client = serve(sends(b"", pause=3))
    (tmp_path / "big").write_bytes(bytes(30 << 20))
    begin = time.monotonic()
    with pytest.raises(Broken):
        put(client, body=tmp_path / "big")
    assert time.monotonic() - begin < 8


def test_who_may_not_write_the_probe_looks_before_he_writes(serve: Serve, bus: Notes, tmp_path: Path) -> None:
    from buildstep.assets.names import Name
    from buildstep.assets.s3_store import S3Assets
    from buildstep.files.interface import Access
    from tests.servers.archives import details, tarball

    denied = says("403 Forbidden", b"<Error><Code>AccessDenied</Code></Error>")
    server, _ = serve(denied, says("404 Not Found"), OK, says("404 Not Found"), OK)
    store = S3Assets("s3://bucket", Access(environ=KEYS, bus=bus, http=FAST, endpoint=server.url))
    path = tarball(tmp_path / "a.tar.gz")
    for version in ("1", "2"):
        assert store.put(Name("web", version, ".tar.gz"), path, details(path))
    assert [request.split()[0] for request in server.requests] == [b"PUT", b"HEAD", b"PUT", b"HEAD", b"PUT"]
    assert len([text for text in bus.texts if "may ignore conditions" in text]) == 1
