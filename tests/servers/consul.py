"""A real Consul agent on loopback: Debian's of bullseye, the last suite that has one, fetched by a private apt.

The program is kept outside the checkout, as the other servers are, and made again when it is not there. Where it
cannot be fetched, tests that need it are skipped, each with the reason, and fail where CI is set.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.guest import apt
from tests.guest.cache import aside, locked, sweep_aside
from tests.guest.commands import output
from tests.guest.errors import GuestError
from tests.servers import fixtures
from tests.servers.processes import free_port, running

SUITE = "bullseye"
VERSION = "1.8.7"
MASTER = "5a1e0c6e-0000-4000-8000-00000000c0de"
"""The token that may do everything, where there are access rules."""


def program() -> str:
    """The Consul program."""
    folder = fixtures.CACHE.parent / f"consul-{VERSION}"
    found = folder / "usr/bin/consul"
    if not found.exists():
        with locked(folder.parent / "consul.lock"):
            if not found.exists():
                try:
                    _fetch(folder)
                except (GuestError, OSError) as error:
                    reason = f"Consul cannot be fetched: {error}"
                    if os.environ.get("CI"):
                        pytest.fail(reason)
                    pytest.skip(reason)
    return os.fspath(found)


def _fetch(folder: Path) -> None:
    sweep_aside(folder.parent)
    with aside(folder) as new:
        uri = apt.mirror_uri(os.environ.get("BUILDSTEP_GUEST_MIRROR"))
        private = apt.PrivateApt(new / "apt", uri=uri, suite=SUITE)
        private.update()
        package = private.package("consul")
        if not package.version.startswith(VERSION):
            raise GuestError(f"{SUITE} has Consul {package.version}, and not {VERSION}")
        output(["dpkg", "-x", private.download(package, new / "debs"), new])
        for name in ("apt", "debs", "etc", "usr/share", "lib", "var"):
            subprocess.run(["rm", "-rf", new / name], check=True)


@dataclass
class Agent:
    """An agent, or how it is started again. Stopped and killed agents are as the operator left them."""

    folder: Path
    port: int
    config: Mapping[str, Any]
    arguments: tuple[str, ...] = ("-dev",)
    ca: Path | None = None
    client_cert: tuple[Path, Path] | None = None
    ports: dict[str, int] = field(default_factory=dict)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"consul{'+https' if self.ca else ''}://127.0.0.1:{self.port}"

    def start(self, *, ready: bool = True) -> None:
        """Start it; by default it can be written to then."""
        self.folder.mkdir(exist_ok=True)
        base = {"disable_update_check": True, "log_level": "warn"}
        (self.folder / "config.json").write_text(json.dumps({**base, **self.config}))
        ports = {
            "http": -1 if self.ca else self.port,
            "https": self.port if self.ca else -1,
            "dns": -1,
            "grpc": -1,
        }
        self.ports = self.ports or {name: free_port() for name in ("serf_lan", "serf_wan", "server")}
        (self.folder / "ports.json").write_text(json.dumps({"ports": ports | self.ports}))
        argv = [
            program(), "agent", *self.arguments, "-bind", "127.0.0.1", "-client", "127.0.0.1",
            "-config-file", f"{self.folder}/config.json", "-config-file", f"{self.folder}/ports.json",
        ]  # fmt: skip
        looks = self.writable if ready else (lambda: True)
        log = self.folder / "log"
        self._child = self._stack.enter_context(running(argv, log=log, ready=looks, seconds=30))

    def writable(self) -> bool:
        try:
            return self.call("PUT", "kv/probe", b"x") is True and self.call("DELETE", "kv/probe") is True
        except OSError:
            return False

    def signal(self, number: signal.Signals) -> None:
        assert self._child is not None
        self._child.send_signal(number)
        if number == signal.SIGKILL:
            self._child.wait(10)

    def stop(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGCONT)
        self._stack.close()
        self._child = None

    def call(self, method: str, path: str, data: bytes | None = None, token: str = MASTER) -> Any:
        """A call by a client that is not ours; the answer's JSON. Raises OSError."""
        context = None
        if self.ca:
            context = ssl.create_default_context(cafile=self.ca)
            if self.client_cert:
                context.load_cert_chain(*self.client_cert)
        request = urllib.request.Request(
            f"http{'s' if self.ca else ''}://127.0.0.1:{self.port}/v1/{path}",
            data=data, method=method, headers={"X-Consul-Token": token} if token else {},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=10, context=context) as reply:
            text = reply.read()
        try:
            return json.loads(text)
        except ValueError:
            return text.decode()

    def put(self, key: str, value: str) -> None:
        """Write a key as daybook does: no version named."""
        assert self.call("PUT", f"kv/{urllib.request.quote(key)}", value.encode()) is True  # type: ignore[attr-defined]

    def raw(self, key: str) -> str | None:
        """The bytes of a key as text; None if it is not there."""
        try:
            return str(self.call("GET", f"kv/{urllib.request.quote(key)}?raw"))  # type: ignore[attr-defined]
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
            raise

    def clear(self) -> None:
        self.call("DELETE", "kv/?recurse")

    def token(self, rules: str) -> tuple[str, str]:
        """A token with these rules; its public name, and its secret."""
        name = f"p{free_port()}"
        self.call("PUT", "acl/policy", json.dumps({"Name": name, "Rules": rules}).encode())
        made = self.call("PUT", "acl/token", json.dumps({"Policies": [{"Name": name}]}).encode())
        return made["AccessorID"], made["SecretID"]

    def revoke(self, accessor: str) -> None:
        self.call("DELETE", f"acl/token/{accessor}")


@contextlib.contextmanager
def agent(folder: Path, **how: Any) -> Iterator[Agent]:
    """An agent for the length of a block. how: fields of `Agent`."""
    config = how.pop("config", {})
    found = Agent(folder=folder, port=free_port(), config=config, **how)
    try:
        found.start()
        yield found
    finally:
        found.stop()


ACL = {
    "primary_datacenter": "dc1",
    "acl": {"enabled": True, "default_policy": "deny", "tokens": {"master": MASTER}, "token_ttl": "0s"},
}
"""Nobody may do what no rule permits."""


@pytest.fixture(scope="module")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent that lets everybody in."""
    with agent(tmp_path_factory.mktemp("consul")) as found:
        yield found


@pytest.fixture(scope="module")
def locked_consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent with access rules."""
    with agent(tmp_path_factory.mktemp("consul"), config=ACL) as found:
        yield found
