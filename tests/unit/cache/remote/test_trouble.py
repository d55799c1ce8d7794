"""Stores that do not answer, answer slowly, or answer nonsense: a build loses no more than it said it would."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from buildstep.cache.remote.interface import Output, Record, Settings, Stopped, TooSlow, Wanted
from buildstep.cache.remote.names import shared_key
from buildstep.cache.remote.registry import _rows
from buildstep.cache.remote.store import SharedStore
from buildstep.errors import StoreError
from buildstep.events import Bus

WANTED: Wanted = ("base", shared_key("base", {}))
S3 = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def black_hole() -> Iterator[str]:
    """An address where calls are taken and never answered."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(100)
        yield f"127.0.0.1:{sock.getsockname()[1]}"


@contextmanager
def refusing() -> Iterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answer = "500"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        if self.answer == "500":
            self.send_response(500)
            self.send_header("Content-Length", "3")
            self.end_headers()
            self.wfile.write(b"no\n")
        elif self.answer == "endless":
            self.send_response(206)
            self.send_header("Content-Range", "bytes 0-524288/9999999999")
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x" * 65536)
        elif self.answer == "slow":  # a kilobyte a second
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 20))
            self.end_headers()
            try:
                for _ in range(1000):
                    self.wfile.write(bytes(100))
                    time.sleep(0.1)
            except OSError:
                self.close_connection = True
        else:  # more than there can be
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 40))
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(1 << 16))
            except OSError:
                self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()


@contextmanager
def answering(how: str) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"answer": how})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def troubled(kind: str) -> Iterator[str]:
    if kind in ("black hole", "refused"):
        with black_hole() if kind == "black hole" else refusing() as address:
            yield address
    else:
        with answering(kind) as address:
            yield address


def opened(scheme: str, address: str) -> SharedStore:
    environ = S3 | {"AWS_ENDPOINT_URL": f"http://{address}"} if scheme == "s3" else {}
    url = {"s3": "s3://bucket/x", "http": f"http://{address}/x", "registry": f"registry:{address}/x"}[scheme]
    return SharedStore.open(Settings(url=url), environ, Bus())


@pytest.mark.parametrize("scheme", ["s3", "http", "registry"])
@pytest.mark.parametrize("kind", ["black hole", "refused", "500", "slow", "endless"])
def test_a_look_up_takes_no_longer_than_it_may(scheme: str, kind: str) -> None:
    with troubled(kind) as address:
        with opened(scheme, address) as store:
            begun = time.monotonic()
            assert store.find([WANTED, ("packages", WANTED[1]), ("layer", WANTED[1])], deadline=0.3) == {}
            assert time.monotonic() - begun < 0.8
            assert store.trouble
            begun = time.monotonic()
        assert time.monotonic() - begun < 0.3


@pytest.mark.parametrize("kind", ["black hole", "slow"])
def test_a_fetch_ends_at_its_deadline_and_when_it_is_stopped(kind: str, tmp_path: Path) -> None:
    output = Output(name="layer", digest="a" * 64, size=50 << 20)
    with troubled(kind) as address, opened("http", address) as store:
        for late in (False, True):
            stopped = threading.Event()
            if late:
                threading.Timer(0.3, stopped.set).start()
            begun = time.monotonic()
            with pytest.raises(Stopped if late else TooSlow):
                store.fetch(output, tmp_path / "layer", deadline=60 if late else 0.3, stopped=stopped)
            assert time.monotonic() - begun < 0.8
            assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["black hole", "refused", "500", "slow"])
def test_an_upload_ends_at_its_deadline(kind: str, tmp_path: Path) -> None:
    data = b"x" * 100_000
    output = Output(name="layer", digest=_sha256(data), size=len(data))
    record = Record(kind="base", key=WANTED[1], outputs=(output,))
    with troubled(kind) as address, opened("s3", address) as store:
        begun = time.monotonic()
        assert not store.put(record, {"layer": data}, deadline=0.5)
        assert time.monotonic() - begun < 3
        assert store.trouble


@pytest.mark.commands
def test_a_process_ends_whatever_a_store_does(tmp_path: Path) -> None:
    with black_hole() as address:
        program = f"""
import time
from buildstep.cache.remote.interface import Settings
from buildstep.cache.remote.store import SharedStore
from buildstep.events import Bus
store = SharedStore.open(Settings(url="http://{address}/x"), {{}}, Bus())
assert store.find([{WANTED!r}], deadline=0.2) == {{}}
store.close()
print(time.time())
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30, check=True)
        assert time.time() - float(done.stdout) < 1


def test_a_range_that_never_ends_fills_no_memory() -> None:
    """A server that sends more than was asked for is not listened to any longer."""
    with answering("endless") as address, opened("http", address) as store:
        begin = time.monotonic()
        assert store.find([WANTED], deadline=5.0) == {}
        assert time.monotonic() - begin < 4
        assert "more than" in store.refused[WANTED]
        assert store.facts.bytes_in < 1 << 20


def test_a_registry_s_index_that_somebody_else_wrote() -> None:
    """Whoever may push can put anything there: rows of another form are none."""
    good = {"annotations": {"vnd.buildstep.cache.record": "a" * 64}, "size": 3}
    for notes, size in (("z" * 64, 3), ("\u0661" * 64, 3), ("a" * 63, 3), ("a" * 64, "3"), ("a" * 64, None)):
        bad = {"annotations": {"vnd.buildstep.cache.record": notes}, "size": size}
        data = json.dumps({"manifests": [bad, good, 5, None, [], {"annotations": []}]}).encode()
        assert _rows(data) == [good]


@pytest.mark.parametrize("error", [KeyError("size"), AssertionError(), RecursionError(), OverflowError("x")])
def test_an_answer_that_is_none_is_trouble_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_args: object, **_named: object) -> None:
        raise error

    with SharedStore.open(Settings(url=f"dir:{tmp_path}/x"), {}, Bus()) as store:
        storage = store._backend.storage
        for name in ("read", "write", "list", "exists"):
            monkeypatch.setattr(storage, name, broken, raising=True)
        assert store.find([WANTED]) == {}
        assert store.broken
        assert store.latest("base", "slot") is None
        assert not store.put(Record(kind="base", key=WANTED[1], slot="slot"), {})


def test_nothing_counts_without_a_policy_where_others_may_write(tmp_path: Path) -> None:
    with answering("500") as address, opened("http", address) as store, pytest.raises(StoreError):
        store.fetch(Output(name="x", digest="a" * 64, size=100_000), tmp_path / "x")


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
