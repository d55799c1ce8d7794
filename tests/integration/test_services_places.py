"""Places where actions run, for real: a host over ssh, the root of an image, and what only root can do."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import UsageError
from buildstep.services.interface import (
    Action,
    Answer,
    Outcome,
    Process,
    ServiceError,
    Side,
    Where,
)
from buildstep.services.places import far, pack
from buildstep.services.places.image import Image
from buildstep.services.places.ssh import Ssh
from buildstep.services.runtime import proc
from tests.integration import systemd_node
from tests.integration.conftest import Clones, Require
from tests.servers.processes import free_port
from tests.servers.stores import sshd_serving
from tests.unit.services.calls import Bench

LISTEN = (
    "import socket, sys, time\ns = socket.create_server(('127.0.0.1', int(sys.argv[1])))\ntime.sleep(600)\n"
)


def runs(pid: int) -> bool:
    found = proc.entry(pid)
    return found is not None and found.state not in "ZX"


# -- ssh ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    if not shutil.which("sshd", path="/usr/sbin:/usr/bin"):
        pytest.skip("needs OpenSSH's server")
    with sshd_serving(tmp_path_factory.mktemp("sshd")) as found:
        yield found


class Remote(Bench):
    """A bench whose place is a host over ssh: this one."""

    def __init__(self, top: Path, url: str, config: Path) -> None:
        super().__init__(top)
        self.where = Where(address=url, state=self.state, environ={"BUILDSTEP_SSH_CONFIG": str(config)})
        self.place = Ssh(self.where)  # type: ignore[assignment]


@pytest.fixture
def remote(tmp_path: Path, server: tuple[str, Path]) -> Iterator[Remote]:
    remote = Remote(tmp_path, *server)
    yield remote
    remote.place.close()


def test_a_service_on_another_host_goes_through_its_life(remote: Remote) -> None:
    tree = remote.top / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/server").write_text(LISTEN)
    (tree / "bin/server").chmod(0o755)
    (tree / "link").symlink_to("bin/server")
    (remote.folder / "conf.in").write_text("port = $(param.port)\n")
    (remote.folder / "child!main").mkdir()
    laid, port = remote.top / "laid", free_port()
    process = Process(1, "server", ["python3", f"{laid}/link", str(port)], ports=[port], manager="process")
    values = {"param.port": port, "conf": f"{laid}/etc/conf"}
    facts = {"trees": {str(laid): tree}, "processes": [process], "values": values}
    body = """
    def configure(self, service):
        service.write_file(service["conf"], service.render_template("conf.in"))
        print(sorted(os.listdir(".")), service.secret("login"))
        return "nr"
    """
    assert remote.run(Action.INSTALL, body, facts=facts).answer is Answer.OK
    assert os.readlink(laid / "link") == "bin/server"
    assert (laid / "bin/server").stat().st_mode & 0o777 == 0o755
    configured = remote.run(Action.CONFIGURE, body, facts=facts, secrets={"login": "p4ss"}, token="t")
    assert configured.answer is Answer.NO_RESTART, configured
    assert (laid / "etc/conf").read_text() == f"port = {port}\n"
    assert remote.lines[-1] == "['actions_node.py', 'conf.in'] ***"
    assert remote.place.done("x!main")[Side.NODE, Action.CONFIGURE].token == "t"
    assert remote.run(Action.START, body, facts=facts).answer is Answer.OK
    assert remote.run(Action.CHECK_UP, body, facts=facts).answer is Answer.OK
    assert remote.run(Action.STOP, body, facts=facts).answer is Answer.OK
    assert remote.run(Action.CHECK_DOWN, body, facts=facts).answer is Answer.OK
    assert remote.run(Action.UNINSTALL, body, facts=facts).answer is Answer.OK
    assert sorted(path.name for path in laid.rglob("*")) == ["conf", "etc"]  # what an action wrote is its own
    remote.place.forget("x!main")
    assert [path.name for path in remote.state.iterdir()] == [".runtime"]


def test_the_runtime_is_sent_once_and_again_when_it_is_not_what_it_was(
    remote: Remote, server: tuple[str, Path]
) -> None:
    body = "def start(self, service): pass"
    assert remote.run(Action.START, body).answer is Answer.OK
    folder = remote.state / ".runtime" / pack.runtime_zip()[0]
    before = folder.stat().st_ino
    for damage in (False, True):
        if damage:
            (folder / "runner.py").write_text("raise SystemExit(9)")
        again = Ssh(remote.where)
        try:
            assert again.run(remote.call(Action.START, body), print, threading.Event()).answer is Answer.OK
        finally:
            again.close()
        assert (folder.stat().st_ino == before) is not damage


def test_action_files_are_sent_when_they_change(remote: Remote) -> None:
    sent = remote.state / "x!main/sent"
    seen = []
    for body in ("print(1)", "print(1)", "print(2)"):
        assert remote.run(Action.START, f"def start(self, service): {body}").answer is Answer.OK
        seen.append([path.name for path in sent.iterdir()])
    assert remote.lines == ["1", "1", "2"]
    assert seen[0] == seen[1] != seen[2]
    assert len(seen[2]) == 1


@pytest.mark.parametrize("whole", [False, True])
def test_a_connection_that_is_lost_ends_the_action_and_the_record_is_true(
    remote: Remote, whole: bool
) -> None:
    """The process of ssh here is killed: in the middle of the action, or when it has completed unheard."""
    body = """
    def start(self, service):
        subprocess.Popen(["sh", "-c", "echo $$; sleep 60"], start_new_session=True)
        time.sleep(60)
    """
    if whole:
        # The answer is lost: the runtime cannot tell, as nobody listens, but has recorded.
        body = """
    def start(self, service):
        print(os.getpid())
        time.sleep(0.5)
    """
    raised: list[ServiceError] = []
    outcomes: list[Outcome] = []

    def act() -> None:
        try:
            outcomes.append(remote.run(Action.START, body, token="token"))
        except ServiceError as error:
            raised.append(error)

    worker = threading.Thread(target=act)
    worker.start()
    assert proc.wait_until(lambda: bool(remote.lines), 10)
    pid = int(remote.lines[0])
    clients = [p for p in proc.table() if _is_client(p, remote)]
    assert clients
    for one in clients:
        os.kill(one, signal.SIGSTOP if whole else signal.SIGKILL)
    if whole:
        done = remote.state / "x!main/done/node.start.json"
        assert proc.wait_until(done.exists, 10)
        for one in clients:
            os.kill(one, signal.SIGKILL)
    worker.join(40)
    assert not worker.is_alive()
    assert proc.wait_until(lambda: not runs(pid), 5)
    if whole:
        assert [outcome.answer for outcome in outcomes] == [Answer.OK]
    else:
        assert [error.retryable for error in raised] == [True]
        assert remote.place.done("x!main") == {}


def _is_client(pid: int, remote: Remote) -> bool:
    command = proc.command_of(pid)
    return proc.name_of(pid) == "ssh" and " run" in command and str(remote.state) in command


def test_a_host_whose_key_is_unknown_or_another_is_refused(
    remote: Remote, server: tuple[str, Path], tmp_path: Path
) -> None:
    url, config = server
    name = (config.parent / "known").read_text().split()[0]
    other = (config.parent / "user.pub").read_text()
    for what, known in (("unknown", ""), ("changed", f"{name} {other}")):
        folder = tmp_path / what
        folder.mkdir()
        (folder / "known").write_text(known)
        text = config.read_text().replace(str(config.parent / "known"), str(folder / "known"))
        (folder / "config").write_text(text)
        place = Ssh(
            Where(address=url, state=tmp_path, environ={"BUILDSTEP_SSH_CONFIG": str(folder / "config")})
        )
        with pytest.raises(ServiceError, match="Host key verification failed") as caught:
            place.done("x!main")
        hint = "connect once by hand, or add its key to known_hosts: ssh-keyscan HOST"
        assert (caught.value.hint, caught.value.retryable) == (hint, False)
        place.close()


def test_a_host_without_python_or_with_an_old_one_is_told_so(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, config = server
    for what, message in (("old", "its python3 is too old"), ("none", "has no python3")):
        folder = tmp_path / what
        folder.mkdir()
        if what == "old":
            # A Python that says it is an older one, and then does what it is told: `-I -c CODE ARGS`.
            code = (
                "import sys; sys.version_info = (3, 8, 1); code = sys.argv[3]; del sys.argv[1:4]; exec(code)"
            )
            (folder / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} -I -c "{code}" "$@"\n')
            (folder / "python3").chmod(0o755)
        place = Ssh(Where(address=url, state=tmp_path, environ={"BUILDSTEP_SSH_CONFIG": str(config)}))
        monkeypatch.setattr(
            far, "PYTHON", f"PATH={folder}; {far.PYTHON}"
        )  # the host's, for what is run there
        with pytest.raises(ServiceError, match=message):
            place.done("x!main")
        monkeypatch.undo()
        place.close()


def test_what_the_shell_of_a_host_prints_at_its_start_does_no_harm(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far, "PYTHON", f"echo Welcome; {far.PYTHON}")
    assert remote.run(Action.START, "def start(self, service): print(1)").answer is Answer.OK
    assert remote.lines == ["Welcome", "1"]
    assert list(remote.place.done("x!main")) == [(Side.NODE, Action.START)]


@pytest.mark.parametrize(
    "address", ["", "host", "ssh://", "ssh://-oProxyCommand=x", "ssh://u:p@h", "ssh://h/path"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is no address of a host"):
        Ssh(Where(address=address))


# -- other versions of Python ------------------------------------------------------------------------------------

PYTHONS = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"))
"""Whatever a developer's machine has."""


def test_the_oldest_python_that_is_there_runs_actions_and_keeps_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {int(path.parts[-3].split(".")[1]): path for path in PYTHONS}
    usable = [path for minor, path in sorted(versions.items()) if 9 <= minor < 11]
    if not usable:
        pytest.skip("neither Python 3.9 nor 3.10 is there")
    monkeypatch.setattr(sys, "executable", str(usable[0]))
    bench = Bench(tmp_path)
    body = """
    def configure(self, service):
        service.set("python", sys.version_info[:2])
        return "nr"
    """
    assert bench.run(Action.CONFIGURE, body).values["python"][1] < 11
    port = free_port()
    processes = [Process(1, "server", ["python3", "-c", LISTEN, str(port)], ports=[port], manager="process")]
    for action in (Action.START, Action.CHECK_UP, Action.STOP, Action.CHECK_DOWN, Action.UNINSTALL):
        outcome = bench.service(action, processes)
        assert outcome.answer is Answer.OK, (action, outcome, bench.lines)


def test_records_that_cannot_be_written_are_a_failure(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.state.write_text("a file where the directory would be")
    outcome = bench.run(Action.START, "def start(self, service): pass")
    assert outcome.answer is Answer.FAILED
    assert outcome.message.startswith("what it does cannot be recorded: ")


# -- killed ------------------------------------------------------------------------------------------------------

KILLED = """
def start(self, service):
    subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], start_new_session=True)
    service.run(["sh", "-c", "echo $$ $PPID; trap '' TERM; while :; do sleep 1; done"])
"""


@pytest.mark.parametrize("victim", ["coordinator", "runner", "watcher", "action"])
def test_whoever_is_killed_no_process_of_an_action_is_left(tmp_path: Path, victim: str) -> None:
    bench = Bench(tmp_path)
    call = bench.call(Action.START, KILLED, timeout=60.0 if victim != "watcher" else 2.0)
    heard = tmp_path / "heard"
    coordinator = os.fork()
    if not coordinator:
        try:
            with heard.open("a", buffering=1) as file:
                bench.place.run(call, lambda text: print(text, file=file), threading.Event())
        except ServiceError as error:
            (tmp_path / "error").write_text(error.message)
        finally:
            os._exit(0)
    assert proc.wait_until(lambda: heard.exists() and heard.read_text().endswith("\n"), 10)
    command, action = map(int, heard.read_text().split())
    table = proc.table()
    runner = table[action].parent
    watcher = next(one.pid for one in table.values() if one.parent == runner and one.pid != action)
    mine = [pid for pid in table if pid not in (coordinator, os.getpid()) and _has_mark(pid, runner)]
    assert {command, runner, watcher} <= {*mine}
    os.kill({"coordinator": coordinator, "runner": runner, "watcher": watcher, "action": action}[victim], 9)
    os.waitpid(coordinator, 0)
    assert proc.wait_until(lambda: not any(map(runs, [*mine, action])), 15)
    assert bench.place.done("x!main") == {}
    said = (tmp_path / "error").read_text() if (tmp_path / "error").exists() else ""
    assert ("ended before it answered" in said) is (victim == "runner")
    again = bench.run(Action.START, "def start(self, service): pass")
    assert again.answer is Answer.OK


def _has_mark(pid: int, runner: int) -> bool:
    variables = proc.read_bytes(f"/proc/{runner}/environ").split(b"\0")
    mark = next(text for text in variables if text.startswith(b"BUILDSTEP_ACTION="))
    return proc.marked(pid, mark.decode())


# -- images ------------------------------------------------------------------------------------------------------

BAKED = """
def prepare(self, service):
    service.default("prepare")
    print(os.path.exists("/etc/debian_version"), os.getcwd(), service.in_image)

def configure(self, service):
    service.write_file("/etc/x.conf", service.render_template("conf.in"), user="daemon", mode=0o640)
    print(service.secret("login"))
    return "nr"
"""


@pytest.fixture
def baked(tmp_path: Path, require: Require) -> Clones:
    require("root", "namespaces", "overlay", "mmdebstrap", "mirror", "bwrap")
    return Clones(base=systemd_node.root(), scratch=tmp_path / "clones")


def test_a_service_is_baked_into_an_image_the_same_each_time(
    baked: Clones, private: Callable[[Any], Any], tmp_path: Path
) -> None:
    bench = Bench(tmp_path)
    (bench.folder / "conf.in").write_text("port = $(port)\n")
    (tmp_path / "tree/bin").mkdir(parents=True)
    (tmp_path / "tree/bin/x").write_text("#!/bin/sh\n")
    facts = {
        "trees": {"/opt/x": tmp_path / "tree"},
        "files": {"/etc/y.conf": "y\n"},
        "values": {"port": 80},
        "users": [{"name": "webapp", "uid": 801}],
    }

    def bake(name: str) -> tuple[list[str], dict[str, bytes]]:
        with baked.clone(name) as root:
            place = Image(Where(address=str(root)))
            said: list[str] = []
            try:
                for action in (Action.INSTALL, Action.PREPARE, Action.CONFIGURE):
                    call = bench.call(action, BAKED, facts=facts, secrets={"login": "p4ssw0rd"}, token="once")
                    outcome = place.run(call, said.append, threading.Event())
                    said.append(f"{action}: {outcome.answer} {outcome.message}")
                known = sorted(f"{side} {action}" for side, action in place.done("x!main"))
                with pytest.raises(ServiceError, match=r"start of x!main cannot be done in an image"):
                    place.run(bench.call(Action.START), said.append, threading.Event())
            finally:
                place.close()
            assert (root / "opt/x/bin/x").read_text() == "#!/bin/sh\n"
            assert (root / "etc/x.conf").read_text() == "port = 80\n"
            assert ((root / "etc/x.conf").stat().st_uid, (root / "etc/y.conf").read_text()) == (1, "y\n")
            assert not (root / "run/buildstep-service").exists()
            left = root / "var/lib/buildstep/services"
            files = {str(one.relative_to(left)): one.read_bytes() for one in left.rglob("*") if one.is_file()}
            return [*said, *known], files

    said, files = private(lambda: bake("first"))
    assert said == [
        "files written: 2, removed: 0",
        "install: ok ",
        "made the user webapp",
        "True /run/buildstep-service/folder True",
        "prepare: ok ",
        "***",
        "configure: no-restart ",
        "node configure",
        "node install",
        "node prepare",
    ]
    assert b"p4ssw0rd" not in b"".join(files.values())
    assert private(lambda: bake("second")) == (said, files)


def test_an_image_without_python_is_told_so(debian: Clones, private: Callable[[Any], Any]) -> None:
    def job() -> str:
        with debian.clone() as root:
            place = Image(Where(address=str(root)))
            try:
                place.done("x!main")
            except ServiceError as error:
                return error.message.replace(str(root), "ROOT") + "; " + error.hint
            finally:
                place.close()
        return ""

    assert private(job) == (
        "the image in ROOT has no python3, which actions need; "
        "add its package: python3 (of Debian, python3-minimal is too little)"
    )
