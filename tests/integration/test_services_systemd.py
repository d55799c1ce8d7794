"""Services on a node that systemd runs, for real: booted in a container, reached over ssh."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.services import wire
from buildstep.services.interface import Action, Answer, Process, Where
from buildstep.services.places.ssh import Ssh
from buildstep.services.runtime.service import Service
from buildstep.services.runtime.supervisors import systemd
from tests.integration.systemd_node import booted
from tests.servers.processes import free_port
from tests.unit.services.calls import Bench

SERVER = """
import json, os, socket, sys, time
print(json.dumps([sys.argv[1:], os.environ.get("ODD"), os.getcwd(), os.geteuid()]), flush=True)
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True: time.sleep(60)
"""
ODD = "a $HOME ${HOME} %h \"q\" 'r' \\n ; x"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    with booted(tmp_path_factory.mktemp("node")) as found:
        yield found


class Node(Bench):
    """A bench whose place is the node."""

    def __init__(self, top: Path, url: str, config: Path) -> None:
        super().__init__(top)
        self.ssh = Ssh(Where(address=url, environ={"BUILDSTEP_SSH_CONFIG": str(config)}))
        self.place = self.ssh  # type: ignore[assignment]
        self.argv = ["ssh", "-F", str(config), "-p", url.rpartition(":")[2], "root@127.0.0.1"]

    def shell(self, text: str) -> str:
        done = subprocess.run([*self.argv, text], check=False, capture_output=True, text=True, timeout=30)
        return done.stdout.strip()


@pytest.fixture
def node(tmp_path: Path, machine: tuple[str, Path]) -> Iterator[Node]:
    node = Node(tmp_path, *machine)
    yield node
    node.ssh.close()


def process(port: int, **more: object) -> Process:
    argv = ["python3", "-S", "-c", SERVER, str(port), ODD]
    given = {"environment": {"ODD": ODD}, "directory": "/var", "user": "daemon", "ports": [port], **more}
    return Process(1, "server", argv, start_seconds=20.0, **given)  # type: ignore[arg-type]


UNIT = "buildstep-x:main.1.service"


def test_a_service_goes_through_its_life_as_a_unit(node: Node) -> None:
    processes = [process(free_port())]
    assert node.service(Action.CHECK_UP, processes, timeout=5).answer is Answer.NOT
    outcome = node.service(Action.START, processes)
    assert outcome.answer is Answer.OK, (outcome, node.lines)
    assert node.service(Action.CHECK_UP, processes).answer is Answer.OK
    assert node.shell(f"systemctl is-active {UNIT}; systemctl is-enabled {UNIT}") == "active\nenabled"
    said = node.shell(f"journalctl -o cat -u {UNIT} | grep '\\['")
    port = str(processes[0].ports[0])
    assert json.loads(said.splitlines()[-1]) == [[port, ODD], ODD, "/var", 1]

    first = node.shell(f"systemctl show -P MainPID {UNIT}")
    node.shell(f"kill -9 {first}")
    assert node.service(Action.CHECK_UP, processes).answer is Answer.OK
    second = node.shell(f"systemctl show -P MainPID {UNIT}")
    assert second not in (first, "0")
    assert node.service(Action.START, processes).answer is Answer.OK
    assert node.shell(f"systemctl show -P MainPID {UNIT}") == second

    assert node.service(Action.STOP, processes).answer is Answer.OK
    assert node.service(Action.CHECK_DOWN, processes).answer is Answer.OK
    assert node.service(Action.UNINSTALL, processes).answer is Answer.OK
    assert node.shell(f"find /etc/systemd -name '{UNIT}'; systemctl is-enabled {UNIT}") == ""


def test_what_ignores_sigterm_is_killed_as_a_unit(node: Node) -> None:
    text = "trap '' TERM; (setsid sh -c 'trap \"\" TERM; sleep 61; sleep 61') & while :; do sleep 0.1; done"
    stubborn = Process(1, "sh", ["sh", "-c", text], stop_seconds=60.0)
    assert node.service(Action.START, [stubborn]).answer is Answer.OK
    assert node.service(Action.HALT, [stubborn]).answer is Answer.OK
    assert node.service(Action.CHECK_DOWN, [stubborn]).answer is Answer.OK
    assert node.shell("grep -l -s -a 'sleep.61$' /proc/[0-9]*/cmdline") == ""
    assert node.service(Action.UNINSTALL, [stubborn]).answer is Answer.OK


def test_a_unit_that_fails_at_once_is_a_failure_with_what_it_said(node: Node) -> None:
    bad = Process(1, "sh", ["sh", "-c", "echo no such disk; exit 7"], start_seconds=20.0)
    outcome = node.service(Action.START, [bad])
    assert outcome.answer is Answer.FAILED
    assert "status 7" in outcome.message
    assert "sh: no such disk" in node.lines
    assert node.service(Action.CHECK_DOWN, [bad]).answer is Answer.OK
    assert node.service(Action.UNINSTALL, [bad]).answer is Answer.OK


def test_a_unit_of_the_same_name_that_is_not_ours_is_refused(node: Node) -> None:
    node.shell(f"printf '[Service]\\nExecStart=/bin/sleep 99\\n' > /etc/systemd/system/{UNIT}")
    try:
        for action in (Action.START, Action.STOP, Action.UNINSTALL):
            outcome = node.service(action, [Process(1, "p", ["sleep", "60"])])
            assert (outcome.answer, outcome.message) == (
                Answer.FAILED,
                f"/etc/systemd/system/{UNIT} was not made for this service: remove it, or rename the service",
            )
        assert "sleep 99" in node.shell(f"cat /etc/systemd/system/{UNIT}")
    finally:
        node.shell(f"rm /etc/systemd/system/{UNIT}")


def test_packages_and_accounts_of_the_node(node: Node) -> None:
    """What is there costs no process; an account is made once, with its numbers."""
    body = """
    def prepare(self, service):
        from buildstep.services.runtime import commands
        service.default("prepare")
        service.set("calls", commands.started)
    """
    users = [{"name": "webapp", "uid": 801, "gid": 802, "home": "/srv/web", "groups": ["daemon"]}]
    facts = {"packages": ["python3-minimal", "dbus"], "users": users}
    outcome = node.run(Action.PREPARE, body, facts=facts)
    assert (outcome.answer, outcome.values) == (Answer.OK, {"calls": 2})  # groupadd, useradd
    assert node.shell("getent passwd webapp") == "webapp:x:801:802::/srv/web:/usr/sbin/nologin"
    assert node.shell("id -nG webapp") == "webapp daemon"
    again = node.run(Action.PREPARE, body, facts=facts)
    assert (again.answer, again.values) == (Answer.OK, {"calls": 0})
    users[0]["uid"] = 900
    wrong = node.run(Action.PREPARE, body, facts=facts)
    assert wrong.message == "the user webapp is there with uid 801, not 900"


def write_package(folder: Path, name: str) -> str:
    """Make a package with a daemon that its installation starts, as Debian's do; return its lines in a
    repository's list."""
    control = (
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    files = {
        "DEBIAN/control": control,
        "DEBIAN/postinst": f"#!/bin/sh\nsystemctl enable {name}\ndeb-systemd-invoke start {name}.service\n",
        f"lib/systemd/system/{name}.service": "[Service]\nExecStart=/bin/sleep 600\n[Install]\nWantedBy=multi-user.target\n",
    }
    for path, text in files.items():
        target = folder / "build" / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(0o755)
    deb = folder / f"{name}.deb"
    argv = ["dpkg-deb", "-Znone", "--build", str(folder / "build" / name), str(deb)]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    data = deb.read_bytes()
    return (
        f"{control}Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n\n"
    )


def test_packages_are_installed_and_their_daemons_do_not_start(node: Node) -> None:
    repository = node.top / "packages"
    repository.mkdir()
    (repository / "Packages").write_text("".join(write_package(repository, name) for name in ("one", "two")))
    packed = subprocess.run(["tar", "-cC", str(repository), "."], check=True, capture_output=True).stdout
    unpack = "mkdir -p /srv/packages && tar -xC /srv/packages && cd /etc/apt && rm -f sources.list"
    lists = "echo 'deb [trusted=yes] file:/srv/packages ./' > sources.list.d/test.list"
    subprocess.run([*node.argv, f"{unpack} && {lists}"], input=packed, check=True, timeout=30)
    body = """
    def prepare(self, service):
        print(service.ensure_packages("one", "dbus"), service.ensure_packages("one"))
        service.ensure_packages("two", start=True)
        service.ensure_packages("no-such-package")
    """
    outcome = node.run(Action.PREPARE, body)
    assert outcome.message == "apt-get exited with status 100: no-such-package"
    assert "['one'] []" in node.lines
    assert node.shell("systemctl is-active one two; ls /usr/sbin/policy-rc.d 2>&1").splitlines() == [
        "inactive",
        "active",
        "ls: cannot access '/usr/sbin/policy-rc.d': No such file or directory",
    ]


def test_units_are_as_systemd_reads_them(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("the program systemd-analyze is not installed")
    bench = Bench(tmp_path)
    call = bench.call(Action.START, facts={"processes": [process(80, user="root")]})
    service = Service(wire.call_json(call))
    for own in (False, True):
        path = tmp_path / f"buildstep-{own}.service"
        path.write_text(systemd.unit_text(service, service.processes[0], f"{systemd.MARK} 1 of x\n", own=own))
        argv = ["systemd-analyze", "verify", *(["--user"] if own else []), str(path)]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
        assert [line for line in done.stderr.splitlines() if path.name in line] == []
