"""Stores behind web servers on loopback that lack this and that: ranges, HEAD, patience, truth."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.errors import StoreError, UsageError
from buildstep.files import open_storage
from buildstep.files.content import ContentStore
from buildstep.files.http import WebHttp
from buildstep.files.interface import Access, Missing, ReadOnly, Storage, Unlistable
from buildstep.files.session import Session
from buildstep.net.errors import HttpError
from buildstep.net.request import HttpOptions
from tests.servers.faulty import faulty
from tests.servers.fixtures import Notes, bus
from tests.servers.stores import Server, serving

__all__ = ["bus"]

DATA = bytes(range(256)) * 10


class _Odd(http.server.BaseHTTPRequestHandler):
    """Serves DATA under every name, in the way that the last part of the name says."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, dict[str, str]]]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self.seen.append(
            (self.command, self.path, {key.lower(): value for key, value in self.headers.items()})
        )
        status, headers, body = 200, {}, DATA
        broken = False
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        first, _, last = wanted.partition("-")
        match self.path.rpartition("/")[2]:
            case "other-range" if wanted:
                status, headers, body = 206, {"Content-Range": f"bytes 1-9/{len(DATA)}"}, DATA[1:10]
            case "no-content-range" if wanted:
                status, body = 206, DATA[:10]
            case "unknown-length" if wanted:
                begin = int(first)
                status, headers, body = (
                    206,
                    {"Content-Range": f"bytes {begin}-{last}/*"},
                    DATA[begin : int(last) + 1],
                )
            case "range-as-200" if wanted:
                begin = int(first)
                headers, body = (
                    {"Content-Range": f"bytes {begin}-{last}/{len(DATA)}"},
                    DATA[begin : int(last) + 1],
                )
            case "short-refused" if wanted and not first and int(last) > len(DATA):
                status, body = 416, b"no"
            case "secret" if self.headers.get("Authorization") != WANTED:
                status, body = 401, b"who are you"
            case "breaks-off" | "breaks-off-then-ranges" as how:
                if how == "breaks-off-then-ranges" and wanted:
                    begin = int(first)
                    status, body = 206, DATA[begin:]
                    headers = {"Content-Range": f"bytes {begin}-{len(DATA) - 1}/{len(DATA)}"}
                broken = len([path for _, path, _ in self.seen if path.endswith(how)]) == 1
            case "gone":
                status, body = 410, b""
            case "forbidden":
                status, body = 403, b""
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if broken else body)
        self.close_connection = broken

    do_HEAD = do_GET  # noqa: N815 - as the library wants it


WANTED = "Basic " + base64.b64encode(b"ci:pass word").decode()


@pytest.fixture
def seen() -> list[tuple[str, str, dict[str, str]]]:
    return []


@pytest.fixture
def odd(seen: list[tuple[str, str, dict[str, str]]]) -> Iterator[str]:
    with Server(("127.0.0.1", 0), type("Odd", (_Odd,), {"seen": seen})) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def opened(url: str, bus: Notes, **environ: str) -> Storage:
    options = HttpOptions(connect=2, response=5, idle=5, attempts=4, backoff=0.001)
    return open_storage(url, environ=environ, bus=bus, http=options)


class TestRanges:
    @pytest.mark.parametrize("name", ["unknown-length", "range-as-200", "plain"])
    def test_a_range(self, odd: str, bus: Notes, name: str) -> None:
        assert opened(f"http://{odd}", bus).read(name, 100, 50) == DATA[100:150]

    @pytest.mark.parametrize("name", ["other-range", "no-content-range"])
    def test_a_range_that_was_not_asked_for(self, odd: str, bus: Notes, name: str) -> None:
        with pytest.raises(HttpError, match="another range"):
            opened(f"http://{odd}", bus).read(name, 100, 50)

    def test_the_last_bytes_of_what_is_shorter(self, odd: str, bus: Notes) -> None:
        assert opened(f"http://{odd}", bus).read("short-refused", -5000) == DATA
        assert opened(f"http://{odd}", bus).read("short-refused", -5000, 3) == DATA[:3]

    def test_a_server_without_ranges_is_told_once(self, odd: str, bus: Notes) -> None:
        storage = opened(f"http://{odd}", bus)
        storage.read("plain")
        assert bus.texts == []
        assert storage.read("plain", -3) == DATA[-3:]
        assert storage.read("plain", 7, 1) == DATA[7:8]
        assert len(bus.texts) == 1
        assert "ignores ranges" in bus.texts[0]


@pytest.mark.parametrize("name", ["breaks-off", "breaks-off-then-ranges"])
def test_a_file_that_breaks_off_is_resumed(
    odd: str, bus: Notes, seen: list[tuple[str, str, dict[str, str]]], name: str, tmp_path: Path
) -> None:
    opened(f"http://{odd}", bus).fetch(name, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA
    assert [headers.get("range") for _, _, headers in seen] == [None, f"bytes={len(DATA) // 2}-"]


class TestCredentials:
    @pytest.mark.parametrize(
        ("before", "environ"),
        [
            ("ci:pass%20word@", {}),
            ("", {"BUILDSTEP_STORE_USER": "ci", "BUILDSTEP_STORE_PASSWORD": "pass word"}),
            ("", {"BUILDSTEP_STORE_USER": "ci", "BUILDSTEP_STORE_PASSWORD": "pass word", "BUILDSTEP_STORE_HOST": "HOST"}),
            ("ci:pass%20word@", {"BUILDSTEP_STORE_USER": "other", "BUILDSTEP_STORE_PASSWORD": "x"}),
        ],
        ids=["url", "environment", "environment with host", "url first"],
    )  # fmt: skip
    def test_where_they_come_from(self, odd: str, bus: Notes, before: str, environ: dict[str, str]) -> None:
        environ = {name: odd if value == "HOST" else value for name, value in environ.items()}
        storage = opened(f"http://{before}{odd}/s", bus, **environ)
        assert storage.url == f"http://{odd}/s"
        assert storage.read("secret") == DATA
        assert storage.exists(["secret"]) == {"secret"}

    def test_what_docker_login_wrote(self, odd: str, bus: Notes, tmp_path: Path) -> None:
        auth = {"auths": {odd: {"auth": WANTED.removeprefix("Basic ")}}}
        (tmp_path / "config.json").write_text(json.dumps(auth))
        assert opened(f"http://{odd}", bus, DOCKER_CONFIG=str(tmp_path)).read("secret") == DATA

    def test_those_of_a_registry_or_another_host_are_not_sent(
        self, odd: str, bus: Notes, seen: list[tuple[str, str, dict[str, str]]]
    ) -> None:
        for environ in (
            {"BUILDSTEP_REGISTRY_USER": "ci", "BUILDSTEP_REGISTRY_PASSWORD": "pass word"},
            {"BUILDSTEP_STORE_USER": "ci", "BUILDSTEP_STORE_PASSWORD": "p", "BUILDSTEP_STORE_HOST": "other"},
        ):
            with pytest.raises(HttpError, match="401") as caught:
                opened(f"http://{odd}", bus, **environ).read("secret")
            assert caught.value.hint
        assert not any("authorization" in headers for _, _, headers in seen)

    def test_no_error_tells_them(self, odd: str, bus: Notes) -> None:
        storage = opened(f"http://ci:hidden@{odd}", bus)
        with pytest.raises(HttpError) as caught:
            storage.read("secret")
        assert "hidden" not in f"{caught.value.message} {caught.value.detail} {caught.value.hint}"
        with pytest.raises(ReadOnly) as refused:
            storage.write("x", b"")
        assert "hidden" not in refused.value.message


def test_what_is_not_there_and_what_is_not_allowed(odd: str, bus: Notes) -> None:
    storage = opened(f"http://{odd}", bus)
    assert storage.exists(["gone", "plain"]) == {"plain"}
    assert storage.load("gone") is None
    with pytest.raises(Missing):
        storage.read("gone")
    for call in (lambda: storage.read("forbidden"), lambda: storage.exists(["forbidden"])):
        with pytest.raises(HttpError, match="403"):
            call()
    with pytest.raises(Unlistable) as caught:
        next(storage.list("refs/"))
    assert "dir:" in caught.value.hint


def test_what_can_change_is_not_taken_from_a_cache(
    odd: str, bus: Notes, seen: list[tuple[str, str, dict[str, str]]]
) -> None:
    storage = opened(f"http://{odd}/s", bus)
    storage.load("refs/a")
    storage.read("objects/a")
    assert [(path, headers.get("cache-control")) for _, path, headers in seen] == [
        ("/s/refs/a", "no-cache"),
        ("/s/objects/a", None),
    ]


def test_without_head(tmp_path: Path, bus: Notes) -> None:
    (tmp_path / "a").write_bytes(DATA)
    (tmp_path / "empty").touch()
    with serving(tmp_path, head=False) as url:
        storage = opened(url, bus)
        assert storage.exists(["a", "empty", "b"]) == {"a", "empty"}


@pytest.mark.parametrize(
    "url", ["http:///x", "http://h/x?token=1", "https://h/x#y", "http://h:port/x", "http://[::1/x"]
)
def test_addresses_that_are_none(url: str, bus: Notes) -> None:
    with pytest.raises(UsageError) as caught:
        opened(url, bus)
    assert "token" not in str(caught.value)


def test_a_bad_network(tmp_path: Path, bus: Notes) -> None:
    (tmp_path / "a").write_bytes(DATA * 1000)
    with serving(tmp_path) as url, faulty(url, share=0.3, seed=3) as proxy:
        storage = opened(proxy.url, bus)
        for number in range(8):
            assert storage.read("a", 5, 100_000) == (DATA * 1000)[5:100_005]
            storage.fetch("a", tmp_path / f"b{number}")
            assert (tmp_path / f"b{number}").read_bytes() == DATA * 1000
    assert proxy.seen["short body"]
    assert proxy.seen["reset"]
    assert bus.texts


def test_a_session_says_that_nothing_can_be_written(tmp_path: Path, bus: Notes) -> None:
    local = ContentStore(open_storage(f"dir:{tmp_path}", environ={}))
    tmp_path.chmod(0o700)
    local.create()
    with serving(tmp_path) as url:
        store = ContentStore(opened(url, bus))
        with pytest.raises(ReadOnly, match="web server"), Session(store, "x"):
            pass
        with pytest.raises(StoreError, match="no store in"):
            _ = ContentStore(opened(f"{url}/other", bus)).settings


def test_many_contents_are_looked_for_with_few_calls(
    odd: str, bus: Notes, seen: list[tuple[str, str, dict[str, str]]]
) -> None:
    class Web(WebHttp):
        def load(self, name: str) -> None:
            """No packs."""

    storage = Web(f"//{odd}/s", Access(environ={}, bus=bus))
    digests = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(101)]
    assert ContentStore(storage).has(digests) == set(digests)
    assert len(seen) == 101
    assert all(path.endswith(".zst") for _, path, _ in seen)
