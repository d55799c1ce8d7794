"""redis and a web service that needs it, for real: from templates to running, through all that can befall them,
to nothing left; on this machine, and on another host over ssh."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.integration.service_cli import ServiceCli
from tests.servers.stores import sshd_serving

REDIS, WEB = "redis!main", "web!main"

TEMPLATES = {
    "redis/service.hrd": """\
description = 'keeps counts'
packages = redis-server,
files.1 = source:redis.conf, dest:'$(param.top)/redis/redis.conf'
data.dirs = '$(param.top)/data/redis',
process.1 = name:'redis', cmd:'redis-server', args:'$(param.top)/redis/redis.conf', ports:'$(param.port)', startupmanager:process

recurring.monitor = 5m
""",
    "redis/instance.hrd": """\
param.top = @ASK descr:'where it lies'
param.port = @ASK type:int default:6379 minValue:1 maxValue:65535 descr:'where it listens'
""",
    "redis/redis.conf": """\
bind 127.0.0.1
port $(param.port)
dir $(param.top)/data/redis
save ""
appendonly yes
""",
    "redis/actions_node.py": """\
import os

from buildstep.services.runtime import ActionsBaseNode


class Actions(ActionsBaseNode):
    def configure(self, service):
        os.makedirs(f"{service.values['param.top']}/data/redis", exist_ok=True)
""",
    "web/service.hrd": """\
description = 'counts visits'
dependencies.global = redis
files.1 = source:app.py, dest:'$(param.top)/web/app.py', render:false
process.1 = name:'web', cmd:'python3', args:'$(param.top)/web/app.py $(param.port) $(producer.redis.param.port)', ports:'$(param.port)', startupmanager:process
""",
    "web/instance.hrd": """\
param.top = @ASK descr:'where it lies'
param.port = @ASK type:int default:8080 minValue:1 maxValue:65535 descr:'where it listens'
""",
    "web/app.py": """\
import socket
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        with socket.create_connection(("127.0.0.1", int(sys.argv[2])), 2) as redis:
            redis.sendall(b"INCR visits\\r\\n")
            count = redis.recv(64).strip(b":\\r\\n")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"visit " + count)

    def log_message(self, *args):
        pass


HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
""",
}  # fmt: skip


def steady_port() -> int:
    """A free port that the kernel gives to no connection: it is taken only some seconds later."""
    for port in random.sample(range(15000, 30000), 50):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


INSTALL = ["check_requirements", "install", "prepare", "configure", "start", "check_up", "monitor"]
RESTARTED = ["check_requirements", "configure", "stop", "check_down", "start", "check_up", "monitor"]


class Pair(ServiceCli):
    """The two services. place: where their node side is, as status tells it."""

    def __init__(self, top: Path, *create: str, **environ: str) -> None:
        super().__init__(top / "repository", TEMPLATES, **environ)
        self.laid = top / "laid"
        self.ports = {"redis": steady_port(), "web": steady_port()}
        self.create = create

    def create_all(self) -> None:
        for name, port in self.ports.items():
            data = ("-D", f"param.top={self.laid}", "-D", f"param.port={port}")
            self.done("create", name, *data, *self.create)

    def visit(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['web']}/", timeout=5) as answer:
            return str(answer.read().decode())

    def set_port(self, name: str, port: int) -> None:
        (path,) = self.top.glob(f"services/**/{name}!*/instance.hrd")
        text = path.read_text()
        assert str(self.ports[name]) in text
        path.write_text(text.replace(str(self.ports[name]), str(port)))
        self.ports[name] = port

    def processes(self) -> dict[int, str]:
        """Return the command lines of all that runs for these services."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                ports = any(f":{port}" in words for port in self.ports.values())
                if (str(self.laid) in words or ("redis-server" in words and ports)) and "pytest" not in words:
                    found[int(entry.name)] = words
        return found

    def kill(self, name: str) -> None:
        """Kill a service's process, and the keeper that would start it again."""
        for pid, words in self.processes().items():
            if name in words:
                keeper = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
                if keeper != 1:
                    os.kill(keeper, signal.SIGKILL)
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module", autouse=True)
def redis_is_there() -> None:
    """The package is installed by the service's own `prepare`, where apt-get can."""
    if shutil.which("redis-server") is None:
        found = subprocess.run(["apt-cache", "policy", "redis-server"], capture_output=True, check=False)
        if b"Candidate: " not in found.stdout or b"Candidate: (none)" in found.stdout:
            pytest.skip("needs Debian's redis-server, and apt-get that knows it")


def whole_life(pair: Pair, records: Path) -> None:
    """Take both services from their templates to running and to nothing."""
    # One whose instance nobody names has that of the one that it lies in.
    redis, web = ("node.ssh!there:redis!there", "node.ssh!there:web!there") if pair.create else (REDIS, WEB)
    pair.create_all()
    ran = pair.ran("install", "web")
    assert {key: ran[key] for key in (redis, web)} == {redis: INSTALL, web: INSTALL}
    assert pair.visit() == "visit 1"
    assert pair.ran("apply") == {key: ["check_up"] for key in ran}
    assert pair.ran("monitor", "redis", "web") == {key: ["check_up", "monitor"] for key in (redis, web)}

    pair.kill("redis-server")
    outcome = pair.json("monitor", "redis", "web", status=23)
    assert {row["service"]: row["state"] for row in outcome["services"]} == {redis: "dead", web: "up"}
    with pytest.raises(OSError):
        pair.visit()
    ran = pair.ran("restart", "redis")
    assert ran[redis] == ["stop", "check_down", "start", "check_up"]
    assert ran[web] == ["check_up"]
    assert pair.visit() == "visit 2", "its data outlives a kill"

    pair.set_port("redis", steady_port())
    ran = pair.ran("apply")
    assert {key: ran[key] for key in (redis, web)} == {
        # The file with the port in it is laid out again as well; what is prepared stays.
        redis: ["check_requirements", "install", *RESTARTED[1:]],
        web: RESTARTED,
    }
    assert pair.visit() == "visit 3"

    stopped = [row["service"] for row in pair.json("stop", "redis")["services"]]
    assert stopped == [web, redis]
    assert pair.processes() == {}
    pair.done("start", "web")
    assert pair.visit() == "visit 4"

    refused = pair.run("uninstall", "redis")
    assert refused.returncode == 23
    assert f"{web} needs it" in refused.stderr
    pair.done("uninstall", "redis", "web")
    assert {key: state for key, state in pair.states().items() if key in (redis, web)} == {
        redis: "uninstalled", web: "uninstalled",
    }  # fmt: skip
    assert pair.processes() == {}
    assert (pair.laid / "data/redis").is_dir(), "data stay"
    assert not (pair.laid / "web/app.py").exists()
    pair.done("purge", "--data", "redis", "web")
    assert not (pair.laid / "data/redis").exists()
    assert not {quote(key, safe="!@") for key in (redis, web)} & {path.name for path in records.glob("*")}
    assert {path.parent.name for path in pair.top.glob("services/**/instance.hrd")} <= {"node!there"}


@pytest.fixture
def tidy() -> Iterator[list[Pair]]:
    """End what a failed test has left running."""
    pairs: list[Pair] = []
    yield pairs
    for pair in pairs:
        for name in ("redis-server", str(pair.laid)):
            pair.kill(name)


def test_redis_and_what_needs_it_on_this_machine(tmp_path: Path, tidy: list[Pair]) -> None:
    pair = Pair(tmp_path)
    tidy.append(pair)
    whole_life(pair, pair.records)


def test_redis_and_what_needs_it_on_another_host_over_ssh(tmp_path: Path, tidy: list[Pair]) -> None:
    if not shutil.which("sshd", path="/usr/sbin:/usr/bin"):
        pytest.skip("needs OpenSSH's server")
    (tmp_path / "sshd").mkdir()
    with sshd_serving(tmp_path / "sshd") as (url, config):
        user, _, rest = url.removeprefix("ssh://").partition("@")
        pair = Pair(tmp_path, "--parent", "node.ssh!there", BUILDSTEP_SSH_CONFIG=str(config))
        tidy.append(pair)
        node = pair.top / "servicetemplates/node.ssh"
        node.mkdir()
        (node / "instance.hrd").write_text("node.tcp.addr = @ASK\nssh.port = @ASK type:int\nlogin = @ASK\n")
        address = {"node.tcp.addr": "127.0.0.1", "ssh.port": rest.rpartition(":")[2], "login": user}
        data = [word for name, value in address.items() for word in ("-D", f"{name}={value}")]
        pair.done("create", "node.ssh", "there", *data)
        records = tmp_path / "sshd/services"
        whole_life(pair, records)
        places = {row["place"] for row in pair.json("status")["services"]}
        assert places == {url.removeprefix("ssh://")}
        pair.done("purge", "node.ssh!there")
        assert not (records / "node.ssh!there").exists()
