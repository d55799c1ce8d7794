"""Where a Consul agent is and who asks it; its answers and failures, of a stand-in that says what is asked of it."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.assets import open_register
from buildstep.assets.interface import Register, RegisterAccess, RegisterError
from buildstep.errors import ToolMissing, UsageError
from buildstep.events import Event
from buildstep.net import consul as net_consul
from buildstep.net.consul_login import login
from buildstep.net.request import HttpOptions
from tests.servers.fixtures import Notes

FAST = HttpOptions(connect=1, response=0.5, attempts=3, backoff=0.01)


@pytest.mark.parametrize(
    ("address", "environ", "expected"),
    [
        ("", {}, "http://127.0.0.1:8500"),
        ("consul.example.com", {}, "http://consul.example.com:8500"),
        ("[::1]:7", {}, "http://[::1]:7"),
        ("", {"CONSUL_HTTP_ADDR": "10.0.0.1:85"}, "http://10.0.0.1:85"),
        ("", {"CONSUL_HTTP_ADDR": "https://x:1"}, "https://x:1"),
        ("", {"CONSUL_HTTP_ADDR": "http://x"}, "http://x:8500"),
        ("y:2", {"CONSUL_HTTP_ADDR": "https://x:1"}, "http://y:2"),
        ("y:2", {"CONSUL_HTTP_SSL": "true"}, "https://y:2"),
        ("", {"CONSUL_HTTP_ADDR": "https://x:1", "CONSUL_HTTP_SSL": "0"}, "http://x:1"),
    ],
)
def test_d05_the_address_is_of_option_or_variable(
    address: str, environ: dict[str, str], expected: str
) -> None:
    found = login(address, {}, environ)
    assert f"{'https' if found.tls else 'http'}://{found.address}" == expected


@pytest.mark.parametrize(
    ("address", "environ"),
    [
        ("x:0", {}), ("x:99999", {}), ("user:secret@x:1", {}), ("x:1?token=secret", {}), ("x y", {}), ("", {"CONSUL_HTTP_ADDR": "unix:///run/c"}),
        ("", {"CONSUL_HTTP_SSL": "perhaps"}), ("", {"CONSUL_CLIENT_CERT": "c.pem"}),
    ],
)  # fmt: skip
def test_what_is_no_address(address: str, environ: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        login(address, {}, environ)
    assert "secret" not in str(caught.value)


def test_d08_who_asks_is_of_option_or_variable(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(" of-file\n")
    variables = {
        "CONSUL_HTTP_TOKEN": "of-env", "CONSUL_NAMESPACE": "ns", "CONSUL_CACERT": "ca", "CONSUL_CLIENT_CERT": "c",
        "CONSUL_CLIENT_KEY": "k", "CONSUL_HTTP_SSL_VERIFY": "false", "CONSUL_HTTP_AUTH": "user:word",
    }  # fmt: skip
    found = login("", {}, variables)
    assert found.headers() == {
        "X-Consul-Token": "of-env", "X-Consul-Namespace": "ns", "Authorization": "Basic dXNlcjp3b3Jk",
    }  # fmt: skip
    assert (found.ca_bundle, found.client_cert, found.verify) == ("ca", ("c", "k"), False)
    assert "of-env" not in repr(found)
    options = {"token_file": str(file), "namespace": "other", "datacenter": "dc2", "ca_file": "mine"}
    found = login("", options, variables)
    assert (found.headers()["X-Consul-Token"], found.namespace) == ("of-file", "other")
    assert (found.datacenter, found.ca_bundle) == ("dc2", "mine")
    file.write_text("new")
    assert found.headers()["X-Consul-Token"] == "new", "a file that is replaced is read again"
    file.write_text("")
    with pytest.raises(UsageError, match="has no token"):
        found.headers()
    file.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        found.headers()


# -- answers ---------------------------------------------------------------------------------------------------


class Fake(http.server.ThreadingHTTPServer):
    """Answers each call with the next of `answers`, or the last: (status, body, headers); `silent` ones hang."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[int, bytes, dict[str, str]]] = []
        self.asked: list[tuple[str, str, dict[str, str]]] = []

    def say(self, status: int, body: object = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers.append(
            (status, data, {name.replace("_", "-"): value for name, value in headers.items()})
        )

    @property
    def url(self) -> str:
        return f"consul://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Fake

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        answers = self.server.answers
        status, body, headers = answers.pop(0) if len(answers) > 1 else answers[0]
        if status == 0:
            time.sleep(1)
            return
        self.send_response(status)
        for name, value in {"X-Consul-Index": "7", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET  # noqa: N815
    do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def fake() -> Iterator[Fake]:
    with Fake() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def register(
    fake: Fake, bus: Notes | None = None, environ: dict[str, str] | None = None, **options: str
) -> Register:
    access = RegisterAccess(environ=environ or {}, bus=bus or Notes(), options=options, http=FAST)
    return open_register(fake.url, access)


ROW = {
    "Key": "daybook/hosts/web-*",
    "Value": "d2ViLCBhcHA=",
    "ModifyIndex": 5,
    "CreateIndex": 5,
    "LockIndex": 0,
    "Flags": 0,
}


def test_datacenter_namespace_consistency_and_token_are_passed(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "of-the-process")
    fake.say(200, [ROW])
    one = register(
        fake,
        environ={"CONSUL_HTTP_TOKEN": "t0ken"},
        datacenter="dc2",
        namespace="ns",
        consistency="consistent",
    )
    assert one.read().services == {"web-*": ("app", "web")}
    for _, path, headers in fake.asked:
        assert "dc=dc2" in path
        assert "consistent=1" in path
        assert "t0ken" not in path, "addresses end up in logs"
        assert (headers["X-Consul-Token"], headers["X-Consul-Namespace"]) == ("t0ken", "ns")
    fake.answers.clear()
    fake.say(200, True)
    assert one.swap("a?b*", ("x", "y"), "5")
    method, path, _ = fake.asked[-1]
    assert (method, path.partition("&")[0]) == ("PUT", "/v1/kv/daybook/hosts/a%3Fb%2A?cas=5")


def test_an_anonymous_call_has_no_token(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "of-the-process")
    fake.say(200, [ROW])
    register(fake).read()
    assert all("X-Consul-Token" not in headers for _, _, headers in fake.asked)


@pytest.mark.parametrize(
    ("status", "body", "words", "calls"),
    [
        (403, b"Permission denied", "does not permit who has no token to list", 1),
        (403, b"ACL not found", "does not know the token", 1),
        (500, b"rpc error making call: Permission denied", "does not permit", 1),
        (500, b"No cluster leader", "has no leader at the moment", 3),
        (500, b"No path to datacenter", "No path to datacenter", 1),
        (429, b"slow down", "429 slow down", 3),
        (502, b"bad gateway", "502 bad gateway", 3),
        (
            400,
            b'Invalid header: "X-Consul-Namespace" - Namespaces are a Consul Enterprise feature',
            "Enterprise",
            1,
        ),
        (200, b"<html>", "is not of Consul", 1),
        (200, b'{"a": 1}', "is not of Consul", 1),
        (0, b"", "no response within 0.5 s", 3),
    ],
)
def test_failures_say_what_happened_and_only_some_are_tried_again(
    fake: Fake, status: int, body: bytes, words: str, calls: int
) -> None:
    bus = Notes()
    fake.say(status, body)
    with pytest.raises(RegisterError) as caught:
        register(fake, bus).read()
    assert words in f"{caught.value.message} {caught.value.detail}"
    assert caught.value.hint
    assert len(fake.asked) == calls
    assert len(bus.texts) == calls - 1


def test_d08_a_listing_that_was_thinned_out_is_refused(fake: Fake) -> None:
    """As a Consul of 1.12 or later tells it."""
    fake.say(200, [ROW], X_Consul_Results_Filtered_By_ACLs="true")
    with pytest.raises(RegisterError, match="leaves out what this token may not read"):
        register(fake).read()


def test_d08_an_empty_listing_is_asked_about(fake: Fake) -> None:
    fake.say(404)  # an older Consul's answer to who may read nothing
    fake.say(403, b"Permission denied")
    with pytest.raises(RegisterError, match="does not permit"):
        register(fake).read()


def test_another_try_does_not_wait_for_an_index_of_before(fake: Fake) -> None:
    fake.say(200, [ROW])
    one = register(fake)
    index = one.read().index
    fake.asked.clear()
    fake.answers[:] = []
    fake.say(500, b"No cluster leader")
    fake.say(200, [ROW | {"Value": "eA=="}], X_Consul_Index="2")
    assert one.wait(index, 30).services == {"web-*": ("x",)}
    assert ["index=7" in path for _, path, _ in fake.asked] == [True, False]


def test_a_held_answer_may_take_longer_than_others(fake: Fake) -> None:
    assert net_consul.LONGEST_WAIT < 600, "more is not granted"
    fake.say(200, [ROW])
    one = register(fake)
    index = one.read().index
    fake.answers[:] = []
    fake.say(0)
    fake.say(200, [ROW])
    began = time.monotonic()
    one.wait(index, 1)
    assert time.monotonic() - began > 0.9, "half a second is for those that are not held back"


def test_a_token_is_not_sent_over_http_without_a_word(fake: Fake) -> None:
    bus = Notes()
    access = RegisterAccess(environ={"CONSUL_HTTP_TOKEN": "t"}, bus=bus, http=FAST)
    open_register("consul://consul.example.com:1", access)
    assert "over http" in bus.texts[0]
    open_register("consul+https://consul.example.com:1", access)
    open_register(fake.url, access)
    assert len(bus.texts) == 1


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "consul", None)
    with pytest.raises(ToolMissing) as caught:
        register(fake).read()
    assert "buildstep[consul]" in caught.value.hint


@pytest.mark.parametrize("pattern", ["", "..", "a/../b", "a//b", "."])
def test_a_pattern_that_would_be_another_key(fake: Fake, pattern: str) -> None:
    with pytest.raises(UsageError):
        register(fake).load(pattern)
    assert fake.asked == []


def test_values_as_people_wrote_them(fake: Fake) -> None:
    import base64

    def row(key: str, value: Any) -> dict[str, Any]:
        return ROW | {
            "Key": f"daybook/hosts/{key}",
            "Value": None if value is None else base64.b64encode(value).decode(),
        }

    fake.say(
        200,
        [
            row("", None),
            row("a", b""),
            row("b", b"x, y ,x"),
            row("c", b",svc"),
            row("d", b"\xff"),
            row("e", None),
        ],
    )
    found = register(fake).read()
    assert dict(found.services) == {"a": (), "b": ("x", "y"), "c": ("svc",), "d": (), "e": ()}
    assert len(found.faults) == 4, found.faults


def test_d08_who_waits_asks_what_it_may_read_when_something_is_gone(fake: Fake) -> None:
    """Not when all is there that was there: two hundred are told of one change at once."""
    other = ROW | {"Key": "daybook/hosts/db", "Value": "eA=="}
    fake.say(200, [ROW])
    one = register(fake)
    index = one.read().index
    for rows, calls in (([ROW, other], 1), ([ROW], 2)):
        fake.asked.clear()
        fake.answers[:] = []
        fake.say(200, rows, X_Consul_Index=str(9 - len(rows)))
        index = one.wait(index, 5).index
        assert len(fake.asked) == calls
    fake.answers[:] = []
    fake.say(404)  # all is gone
    fake.say(403, b"Permission denied")
    with pytest.raises(RegisterError, match="does not permit"):
        one.wait(index, 5)


def test_an_agent_on_this_machine_is_not_asked_by_way_of_a_proxy(fake: Fake) -> None:
    fake.say(200, [ROW])
    dead = "http://127.0.0.1:9"
    one = register(fake, environ={"http_proxy": dead, "https_proxy": dead, "all_proxy": dead})
    assert one.read().services
    fake.asked.clear()
    access = RegisterAccess(
        environ={"http_proxy": fake.url.replace("consul", "http")}, bus=Notes(), http=FAST
    )
    open_register("consul://consul.example.com:1", access).read()
    assert fake.asked[0][1].startswith("http://consul.example.com:1/v1/kv/"), "another one is"


def test_a_token_file_that_is_gone_for_a_moment(fake: Fake, tmp_path: Path) -> None:
    """While it is replaced, who waits for mappings goes on."""
    file = tmp_path / "token"
    file.write_text("t")
    fake.say(200, [ROW])
    bus = Notes()
    one = register(fake, bus, token_file=str(file))
    file.unlink()
    with pytest.raises(RegisterError, match="token cannot be read") as caught:
        one.read()
    assert caught.value.retryable

    def put_back(_event: Event) -> None:
        file.write_text("t")

    bus.subscribe(put_back)  # is told of the first try
    assert one.read().services
    file.unlink()
    with pytest.raises(UsageError):
        register(fake, token_file=str(file))
