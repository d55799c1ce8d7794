"""The network that commands in an image have: the build's proxy, and nothing of the host."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import CommandFailed
from buildstep.events import Bus, Event, Note
from buildstep.rootfs import sandbox
from buildstep.rootfs.network_policy import Endpoint, Policy
from buildstep.rootfs.network_proxy import Contact, NetworkProxy
from buildstep.rootfs.sandbox import SandboxOptions

Private = Callable[[Callable[[], Any]], Any]


class Server(http.server.ThreadingHTTPServer):
    """A web server of this machine that tells what it was asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def at(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.server_port)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.path, self.headers.get("Proxy-Authorization", ""), body))
        answer = f"{self.command} {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET  # noqa: N815 - the name is http.server's

    def do_CONNECT(self) -> None:
        assert isinstance(self.server, Server)
        self.server.seen.append((self.path, self.headers.get("Proxy-Authorization", ""), b""))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"through")
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Not on the test's output."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@contextlib.contextmanager
def proxy(*allowed: Endpoint, **environ: str) -> Iterator[tuple[NetworkProxy, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    made = NetworkProxy(listener, Policy(allowed=frozenset(allowed)), environ)
    try:
        yield made, listener.getsockname()[1]
    finally:
        made.close()


def asked(port: int, lines: str, *, rest: bool = True) -> bytes:
    """Everything that comes back for what is sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(lines.replace("\n", "\r\n").encode())
        if rest:
            client.shutdown(socket.SHUT_WR)
        found = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while data := client.recv(1 << 16):
                found += data
        return found


def test_plain_requests_are_passed_on_one_after_another(server: Server) -> None:
    with proxy(server.at) as (made, port):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for number in range(3):
            client.request("GET", f"http://{server.at}/a%20b?{number}", headers={"Proxy-Authorization": "x"})
            assert client.getresponse().read() == f"GET /a%20b?{number}".encode()
        client.request("POST", f"http://{server.at}/p", body=b"x" * 100_000)
        assert client.getresponse().read() == b"POST /p"
        client.close()
        assert [path for path, _, _ in server.seen] == ["/a%20b?0", "/a%20b?1", "/a%20b?2", "/p"]
        assert server.seen[3][2] == b"x" * 100_000
        assert {word for _, word, _ in server.seen} == {""}
        assert set(made.contacts) == {Contact(server.at)}


def test_many_requests_at_once_have_their_answers_in_order(server: Server) -> None:
    with proxy(server.at) as (_, port):
        lines = "".join(f"GET http://{server.at}/{n} HTTP/1.1\nHost: {server.at}\n\n" for n in range(9))
        last = f"GET http://{server.at}/last HTTP/1.1\nHost: {server.at}\nConnection: close\n\n"
        found = asked(port, lines + last, rest=False)
    places = [found.find(f"GET /{n}".encode()) for n in (*range(9), "last")]
    assert -1 not in places
    assert places == sorted(places)


def test_a_tunnel(server: Server) -> None:
    with proxy(server.at) as (_, port):
        found = asked(
            port, f"CONNECT {server.at} HTTP/1.1\n\nGET /in HTTP/1.1\nConnection: close\n\n", rest=False
        )
    assert found.startswith(b"HTTP/1.1 200 ")
    assert found.endswith(b"GET /in")


def test_the_host_is_refused_in_words(server: Server) -> None:
    with proxy() as (made, port):
        for lines in (
            f"GET http://{server.at}/ HTTP/1.1\n\n",
            f"CONNECT {server.at} HTTP/1.1\n\n",
            f"GET http://localhost:{server.server_port}/ HTTP/1.1\n\n",
            f"CONNECT [::ffff:127.0.0.1]:{server.server_port} HTTP/1.1\n\n",
        ):
            first = asked(port, lines).partition(b"\r\n")[0].decode()
            assert first.startswith("HTTP/1.1 403 "), first
            assert "is the CI host itself" in first
            assert "network.allow" in first
        assert all(contact.problem for contact in made.contacts)
    assert server.seen == []


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("GET / HTTP/1.1\n\n", 400),
        ("GET ftp://x/ HTTP/1.1\n\n", 400),
        ("nonsense\n\n", 400),
        ("CONNECT nowhere HTTP/9\n\n", 400),
        ("POST http://x/ HTTP/1.1\nTransfer-Encoding: chunked\n\n", 400),
        ("POST http://x/ HTTP/1.1\nContent-Length: 1\nContent-Length: 2\n\n", 400),
        ("GET http://x/ HTTP/1.1\nA: " + "b" * 100_000, 431),
        ("GET http://no-such-host.invalid/ HTTP/1.1\n\n", 502),
    ],
)
def test_what_cannot_be_served_is_refused(lines: str, status: int) -> None:
    with proxy() as (_, port):
        assert asked(port, lines).startswith(f"HTTP/1.1 {status} ".encode())


def test_the_hosts_own_proxy_is_gone_through_with_its_password(server: Server) -> None:
    url = f"http://u:sesame@{server.at}"
    with proxy(http_proxy=url, https_proxy=url) as (_, port):
        asked(port, "GET http://198.51.100.1/x HTTP/1.1\nHost: 198.51.100.1\n\n", rest=False)
        assert b"through" in asked(port, "CONNECT 198.51.100.1:443 HTTP/1.1\n\n", rest=False)
        assert b" 403 " in asked(port, "CONNECT 127.0.0.1:443 HTTP/1.1\n\n", rest=False)
    word = "Basic dTpzZXNhbWU="
    assert [(path, auth) for path, auth, _ in server.seen] == [
        ("http://198.51.100.1/x", word), ("198.51.100.1:443", word),
    ]  # fmt: skip


# -- in an image ---------------------------------------------------------------------------------------------

HOSTILE = """
use Socket;
my ($port, $abstract) = @ARGV;
for my $address (pack_sockaddr_in($port, inet_aton('127.0.0.1')), pack('S', AF_UNIX) . "\\0$abstract") {
    my $family = unpack('S', $address);
    socket(my $socket, $family, SOCK_STREAM, 0);
    print "reached $family\\n" if connect($socket, $address);
}
socket(my $server, AF_INET, SOCK_STREAM, 0);
bind($server, pack_sockaddr_in($port + 1, INADDR_ANY)); listen($server, 1);
sleep 2;
"""


def test_a_command_with_the_network_meets_nothing_of_the_host(
    debian: Any, private: Private, server: Server
) -> None:
    abstract = f"buildstep-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{abstract}")
        listening.listen()

        def job() -> tuple[str, bool]:
            heard: list[int] = []

            def knock() -> None:
                for _ in range(20):
                    with socket.socket() as probe:
                        heard.append(probe.connect_ex(("127.0.0.1", server.server_port + 1)))
                    if stop.wait(0.1):
                        return

            stop = threading.Event()
            with debian.clone() as root, sandbox.enter(root, bus=Bus(), environ={}) as inside:
                thread = threading.Thread(target=knock)
                thread.start()
                words = ["perl", "-e", HOSTILE, str(server.server_port), abstract]
                text = inside.run(words, network=True)
                stop.set()
                thread.join()
            return text, 0 in heard

        assert private(job) == ("", False)
    assert server.seen == []


def test_apt_reaches_what_is_named_and_is_told_of_what_is_not(
    debian: Any, private: Private, server: Server, tmp_path: Path
) -> None:
    helper = "/usr/lib/apt/apt-helper"

    def fetch(environ: dict[str, str]) -> tuple[str, list[str]]:
        events: list[Event] = []
        with (
            debian.clone("-".join(environ) or "none") as root,
            sandbox.enter(
                root, bus=Bus(events.append), environ=environ, options=SandboxOptions(timeout=60)
            ) as inside,
        ):
            words = [helper, "-oAPT::Sandbox::User=root", "download-file", f"http://{server.at}/a", "/run/a"]
            try:
                inside.run(words, network=True)
                text = inside.root.read("/run/a").decode()
            except CommandFailed as error:
                text = error.detail
        return text, [event.text for event in events if isinstance(event, Note)]

    def job() -> None:
        text, notes = fetch({"BUILDSTEP_NETWORK_ALLOW": str(server.at)})
        assert text == "GET /a"
        assert f"the network: {server.at} was contacted" in notes
        text, notes = fetch({})
        assert f"{server.at} is the CI host itself" in text
        assert any(note.startswith(f"the network: {server.at}: ") for note in notes)

    private(job)
