"""Mappings in a real Consul: as daybook has them, with several operators, without permission, and when it fails."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from buildstep import cli
from buildstep.assets import mapping, open_register, patterns
from buildstep.assets.interface import Mappings, Register, RegisterAccess, RegisterError
from buildstep.net.request import HttpOptions
from tests.guest.errors import GuestError
from tests.servers import consul as consul_server
from tests.servers import fixtures
from tests.servers.consul import (
    Agent,
    agent,
    consul,  # noqa: F401 - a fixture
    locked_consul,  # noqa: F401 - a fixture
    program,
)
from tests.servers.fixtures import Notes
from tests.servers.processes import free_port

HTTP = HttpOptions(connect=2, response=10, attempts=3, backoff=0.05)
PREFIX = "daybook/hosts/"


def register(
    of: Agent, http: HttpOptions = HTTP, options: dict[str, str] | None = None, **environ: str
) -> Register:
    return open_register(
        of.url, RegisterAccess(environ=environ, bus=Notes(), http=http, options=options or {})
    )


@pytest.fixture
def open_consul(consul: Agent) -> Agent:  # noqa: F811
    consul.clear()
    return consul


# -- what daybook has ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compat", [False, True])
def test_the_examples_of_daybook_come_out_as_told(open_consul: Agent, compat: bool) -> None:
    one = register(open_consul)

    def winner(host: str) -> str | None:
        return patterns.resolve(one.read().services, host, compat=compat).winner

    open_consul.put(f"{PREFIX}web-prod-*", "s3,s1,s2")  # in the order of a Go map
    open_consul.put(f"{PREFIX}web-prod-oneoff-*", "s1, s4")
    assert winner("web-prod-oneoff-001") == "web-prod-oneoff-*"
    assert winner("db-1") is None
    open_consul.put(f"{PREFIX}web-prod-oneoff-001", "s5,s6")
    assert winner("web-prod-oneoff-001") == "web-prod-oneoff-001"
    open_consul.put(f"{PREFIX}*", "base")
    assert winner("db-1") == "*"
    open_consul.put(f"{PREFIX}db-?", "a")
    open_consul.put(f"{PREFIX}db-*", "b")
    assert winner("db-1") == "db-*"
    assert one.read().services["web-prod-*"] == ("s1", "s2", "s3")


def test_d07_a_name_beats_a_wildcard_and_compat_takes_the_longest_key(open_consul: Agent) -> None:
    one = register(open_consul)
    for key in ("web-1", "web-1*", "web-[0123456789]"):
        open_consul.put(PREFIX + key, "x")
    assert patterns.resolve(one.read().services, "web-1").winner == "web-1"
    assert patterns.resolve(one.read().services, "web-1", compat=True).winner == "web-[0123456789]"


def test_what_is_written_is_what_daybook_reads(open_consul: Agent) -> None:
    one = register(open_consul)
    for pattern in ("web-*", "odd [é]%#?", "a\\*b"):
        swapped = one.swap(pattern, ("a", "b"), None)
        assert swapped
        assert open_consul.raw(PREFIX + pattern) == "a,b"
        assert open_consul.call("GET", f"kv/{PREFIX}?keys").count(PREFIX + pattern) == 1
        assert not one.swap(pattern, ("c",), None), "it is there"
    assert set(one.read().services) == {"web-*", "odd [é]%#?", "a\\*b"}


def test_d06_values_of_daybook_are_trimmed_sorted_and_never_the_whole_bucket(open_consul: Agent) -> None:
    one = register(open_consul)
    open_consul.put(f"{PREFIX}a", "")
    open_consul.put(f"{PREFIX}b", ",svc, b ,b")
    open_consul.put(PREFIX, "")
    found = one.read()
    assert dict(found.services) == {"a": (), "b": ("b", "svc")}
    assert len(found.faults) == 2
    assert mapping.add(one, "a", ["x"]).after == ("x",)
    assert mapping.add(one, "b", ["z"]).dropped == ("'b': '' is no name of a service",)
    assert (open_consul.raw(f"{PREFIX}a"), open_consul.raw(f"{PREFIX}b")) == ("x", "b,svc,z")


def test_an_emptied_mapping_is_removed(open_consul: Agent) -> None:
    one = register(open_consul)
    mapping.add(one, "a", ["x", "y"])
    assert mapping.remove(one, "a", ["x", "y"]).after is None
    assert open_consul.raw(f"{PREFIX}a") is None
    with pytest.raises(RegisterError, match="has no mapping"):
        mapping.remove(one, "a", ["x"])
    assert one.read().services == {}, "who may read it sees that there is nothing"


def test_d06_two_operators_edit_one_mapping_a_hundred_times_each(open_consul: Agent) -> None:
    def work(name: str) -> None:
        one = register(open_consul)
        for number in range(100):
            mapping.add(one, "web-*", [f"{name}{number}"])
            if number % 2:
                mapping.remove(one, "web-*", [f"{name}{number - 1}"])

    _together([lambda name=name: work(name) for name in "ab"])  # type: ignore[misc]
    expected = sorted(f"{name}{number}" for name in "ab" for number in range(1, 100, 2))
    assert open_consul.raw(f"{PREFIX}web-*") == ",".join(expected)


def test_d06_a_remove_takes_nothing_that_another_just_added(open_consul: Agent) -> None:
    """The last service is removed while another is added, again and again."""
    one, other = register(open_consul), register(open_consul)
    for number in range(30):
        mapping.add(one, "a", ["old"])
        _together([lambda: mapping.remove(one, "a", ["old"]), lambda: mapping.add(other, "a", ["new"])])
        assert open_consul.raw(f"{PREFIX}a") == "new", number
        mapping.remove(one, "a", ["new"])


def _together(jobs: list[Callable[[], object]]) -> None:
    failed: list[BaseException] = []

    def run(job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


# -- waiting ---------------------------------------------------------------------------------------------------


@dataclass
class Watcher:
    """A thread that waits for mappings; what came, and when."""

    register: Register
    index: str = ""
    seen: list[tuple[float, Mappings]] = field(default_factory=list)
    failed: BaseException | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.index = self.register.read().index
        self.thread.start()

    def _run(self) -> None:
        try:
            found = self.register.wait(self.index, 10)
            self.seen.append((time.monotonic(), found))
        except RegisterError as error:
            self.failed = error


def test_a_wait_ends_with_a_change_of_mappings_and_of_nothing_else(open_consul: Agent) -> None:
    watcher = Watcher(register(open_consul))  # nothing is mapped: Consul tells of every change of any key
    time.sleep(0.1)
    open_consul.put("other/key", "x")
    time.sleep(0.4)
    assert watcher.thread.is_alive()
    began = time.monotonic()
    mapping.add(register(open_consul), "web-*", ["a"])
    watcher.thread.join(5)
    ((ended, found),) = watcher.seen
    assert found.services == {"web-*": ("a",)}
    assert ended - began < 1
    again = register(open_consul)
    began = time.monotonic()
    assert again.wait(found.index, 0.3).index == found.index
    assert 0.25 < time.monotonic() - began < 2
    open_consul.put(f"{PREFIX}web-*", "a")  # the same value: another number of Consul's, and no change
    assert again.wait(found.index, 0.3) == found


# -- permissions -----------------------------------------------------------------------------------------------


def test_d08_a_denied_read_is_never_no_mappings(locked_consul: Agent) -> None:  # noqa: F811
    locked_consul.put(f"{PREFIX}web-*", "a")
    accessor, secret = locked_consul.token('key_prefix "daybook/" { policy = "read" }')
    _, narrow = locked_consul.token(f'key_prefix "{PREFIX}web" {{ policy = "read" }}')
    _, itself = locked_consul.token(f'key "{PREFIX}" {{ policy = "read" }}')
    _, elsewhere = locked_consul.token('key_prefix "other/" { policy = "write" }')
    unknown = {"CONSUL_HTTP_TOKEN": "5a1e0c6e-0000-4000-8000-00000000beef"}
    environs: list[dict[str, str]] = [
        {},
        {"CONSUL_HTTP_TOKEN": narrow},
        {"CONSUL_HTTP_TOKEN": itself},
        {"CONSUL_HTTP_TOKEN": elsewhere},
        unknown,
    ]
    for environ in environs:
        one = register(locked_consul, HTTP, None, **environ)
        for call in (one.read, lambda one=one: one.load("db"), lambda one=one: one.wait("", 1)):
            with pytest.raises(RegisterError) as caught:
                call()
            assert (
                "does not permit" in caught.value.message or "does not know the token" in caught.value.message
            )
            assert "CONSUL_HTTP_TOKEN" in caught.value.hint
            assert narrow not in str(vars(caught.value))
    reader = register(locked_consul, CONSUL_HTTP_TOKEN=secret)
    assert reader.read().services == {"web-*": ("a",)}
    with pytest.raises(RegisterError, match="does not permit this token to write"):
        mapping.add(reader, "web-*", ["b"])
    with pytest.raises(RegisterError, match="does not permit this token to remove"):
        mapping.remove(reader, "web-*", [])
    assert locked_consul.raw(f"{PREFIX}web-*") == "a"
    # Revoked while somebody waits, and then something changes.
    watcher = Watcher(reader)
    time.sleep(0.1)
    locked_consul.revoke(accessor)
    locked_consul.put(f"{PREFIX}web-*", "a,b")
    watcher.thread.join(5)
    # Consul may let a call end that was permitted when it began.
    assert watcher.failed is not None or watcher.seen[0][1].services == {"web-*": ("a", "b")}
    with pytest.raises(RegisterError, match="does not know the token"):
        reader.read()


def test_d08_a_token_of_a_file_may_be_replaced(locked_consul: Agent, tmp_path: Path) -> None:  # noqa: F811
    accessor, secret = locked_consul.token('key_prefix "daybook/" { policy = "write" }')
    file = tmp_path / "token"
    file.write_text(f"{secret}\n")
    one = register(locked_consul, options={"token_file": str(file)}, CONSUL_HTTP_TOKEN="wrong")
    mapping.add(one, "of-file", ["x"])
    locked_consul.revoke(accessor)
    with pytest.raises(RegisterError):
        one.read()
    _, secret = locked_consul.token('key_prefix "daybook/" { policy = "read" }')
    file.write_text(secret)
    assert one.read().services["of-file"] == ("x",)


def test_d08_datacenter_consistency_and_namespace(open_consul: Agent) -> None:
    mapping.add(register(open_consul), "a", ["x"])
    for consistency in ("default", "consistent", "stale"):
        one = register(open_consul, options={"datacenter": "dc1", "consistency": consistency})
        assert one.read().services == {"a": ("x",)}
    with pytest.raises(RegisterError, match="No path to datacenter") as caught:
        register(open_consul, options={"datacenter": "elsewhere"}).read()
    assert "name of the datacenter" in caught.value.hint
    for options, environ in (({"namespace": "team"}, {}), ({}, {"CONSUL_NAMESPACE": "team"})):
        with pytest.raises(RegisterError, match="Enterprise feature") as caught:
            register(open_consul, HTTP, options, **environ).read()  # the community's refuses it
        assert "leave the namespace out" in caught.value.hint


def test_d08_the_mappings_of_another_datacenter(open_consul: Agent, tmp_path: Path) -> None:
    wan = f"127.0.0.1:{open_consul.ports['serf_wan']}"
    arguments = ("-dev", "-datacenter", "dc2", "-node", "far", "-retry-join-wan", wan)
    with agent(tmp_path / "dc2", arguments=arguments) as far:
        far.put(f"{PREFIX}far-*", "x")
        far_from_here = register(open_consul, options={"datacenter": "dc2"})
        _until(lambda: "No path to datacenter" not in _message(far_from_here))
        assert far_from_here.read().services == {"far-*": ("x",)}
        mapping.add(far_from_here, "far-*", ["y"])
        assert far.raw(f"{PREFIX}far-*") == "x,y"
        assert open_consul.raw(f"{PREFIX}far-*") is None


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent that speaks TLS, and wants to see a certificate of ours."""
    folder = tmp_path_factory.mktemp("tls")
    for argv in (["ca", "create"], ["cert", "create", "-server"], ["cert", "create", "-client"]):
        subprocess.run([program(), "tls", *argv], cwd=folder, check=True, capture_output=True, timeout=30)
    ca, server = folder / "consul-agent-ca.pem", folder / "dc1-server-consul-0"
    client = (folder / "dc1-client-consul-0.pem", folder / "dc1-client-consul-0-key.pem")
    config = {
        "ca_file": str(ca), "cert_file": f"{server}.pem", "key_file": f"{server}-key.pem",
        "verify_incoming_https": True,
    }  # fmt: skip
    with agent(folder / "agent", config=config, ca=ca, client_cert=client) as found:
        yield found


@pytest.mark.filterwarnings("ignore:Unverified HTTPS")
def test_d08_tls_with_certificates_of_both_sides(secure: Agent) -> None:
    assert secure.ca
    assert secure.client_cert
    cert, key = map(str, secure.client_cert)
    whole = {"ca_file": str(secure.ca), "cert_file": cert, "key_file": key}
    one = register(secure, options=whole)
    mapping.add(one, "a", ["x"])
    assert one.url.startswith("consul+https://")
    index = one.read().index
    assert one.wait(index, 0.2).index == index
    environ = {
        "CONSUL_HTTP_ADDR": f"https://127.0.0.1:{secure.port}", "CONSUL_CACERT": str(secure.ca),
        "CONSUL_CLIENT_CERT": cert, "CONSUL_CLIENT_KEY": key,
    }  # fmt: skip
    of_variables = open_register("consul:", RegisterAccess(environ=environ, bus=Notes(), http=HTTP))
    assert of_variables.read().services == {"a": ("x",)}
    del environ["CONSUL_CACERT"]
    environ["CONSUL_HTTP_SSL_VERIFY"] = "false"
    assert open_register("consul:", RegisterAccess(environ=environ, bus=Notes(), http=HTTP)).read().services
    with pytest.raises(RegisterError, match="not secure"):
        register(secure, options={"cert_file": cert, "key_file": key}).read()
    with pytest.raises(RegisterError) as caught:
        register(secure, options={"ca_file": str(secure.ca)}).read()
    assert "no answer from the Consul agent" in caught.value.message


# -- failures --------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Agent]:
    """An agent that a test may do to as it likes; it keeps its keys over a restart."""
    server = ("-server", "-bootstrap-expect", "1", "-data-dir", f"{tmp_path}/data")
    with agent(tmp_path / "own", arguments=server, config=QUICK) as found:
        yield found


QUICK = {"performance": {"raft_multiplier": 1, "rpc_hold_timeout": "300ms"}}


def test_an_agent_that_is_killed_and_comes_back(own: Agent) -> None:
    one = register(own, HttpOptions(connect=2, response=2, attempts=8, backoff=0.1))
    mapping.add(one, "a", ["x"])
    watcher = Watcher(one)
    own.signal(signal.SIGKILL)
    quick = register(own)
    with pytest.raises(RegisterError) as caught:
        quick.read()
    assert "no answer from the Consul agent" in caught.value.message
    assert "is the agent running?" in caught.value.hint
    assert caught.value.retryable
    own.stop()
    own.start()
    assert mapping.add(quick, "a", ["y"]).after == ("x", "y"), "the same object works again"
    watcher.thread.join(10)
    assert watcher.failed is None
    assert watcher.seen[0][1].services == {"a": ("x", "y")}, "who waited has the change as well"


def test_an_agent_that_hangs(own: Agent) -> None:
    one = register(own, HttpOptions(connect=1, response=0.4, attempts=2, backoff=0.05))
    mapping.add(one, "a", ["x"])
    own.signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(RegisterError, match="no response within"):
        one.read()
    with pytest.raises(RegisterError, match="no response within"):
        one.wait("x", 0.5)
    assert time.monotonic() - began < 6
    own.signal(signal.SIGCONT)
    assert one.read().services == {"a": ("x",)}


def test_an_agent_that_lost_its_memory(tmp_path: Path) -> None:
    """It counts from one again: who waited for a later number is not left waiting."""
    with agent(tmp_path / "dev") as found:
        one = register(found, HttpOptions(connect=2, response=2, attempts=8, backoff=0.1))
        for number in range(20):
            mapping.add(one, "a", [f"x{number}"])
        watcher = Watcher(one)
        found.signal(signal.SIGKILL)
        found.stop()
        found.start()
        watcher.thread.join(8)
        assert watcher.seen[0][1].services == {}


def test_two_servers_without_a_leader_and_with_one_again(tmp_path: Path) -> None:
    def server(name: str, *more: str) -> Agent:
        arguments = (
            "-server",
            "-bootstrap-expect",
            "2",
            "-data-dir",
            f"{tmp_path}/{name}.data",
            "-node",
            name,
            *more,
        )
        return Agent(folder=tmp_path / name, port=free_port(), config=QUICK, arguments=arguments)

    first = server("one")
    second = None
    try:
        first.start(ready=False)
        one = register(first, HttpOptions(connect=2, response=5, attempts=1))
        _until(lambda: "has no leader" in _message(one))
        second = server("two", "-retry-join", f"127.0.0.1:{first.ports['serf_lan']}", "-retry-interval", "1s")
        second.start()
        _until(first.writable)
        mapping.add(one, "a", ["x"])
        patient = register(first, HttpOptions(connect=2, response=10, attempts=12, backoff=0.2))
        second.signal(signal.SIGKILL)
        _until(lambda: "has no leader" in _message(one))
        with pytest.raises(RegisterError) as caught:
            mapping.add(one, "a", ["y"])
        assert caught.value.retryable
        waiting = threading.Timer(0.3, second.start, kwargs={"ready": False})
        second.stop()
        waiting.start()
        assert mapping.add(patient, "a", ["z"]).after == ("x", "z"), "tried until there was a leader"
        waiting.join()
    finally:
        for it in (first, second):
            if it is not None:
                it.stop()


def _message(one: Register) -> str:
    try:
        one.read()
    except RegisterError as error:
        return error.message
    return ""


def _until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.1)


# -- the command -----------------------------------------------------------------------------------------------


def test_the_command_line_on_a_real_agent(
    open_consul: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "buildstep.toml").write_text(f'[assets]\nregister = "{open_consul.url}"\n')
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, status: int = 0) -> str:
        assert cli.main(["map", *argv]) == status
        return "".join(capfd.readouterr())

    run("add", "web-prod-*", "s1", "s2")
    run("add", "web-prod-oneoff-*", "s4,s1")
    found = json.loads(run("resolve", "web-prod-oneoff-001", "--json"))
    assert (found["pattern"], found["services"]) == ("web-prod-oneoff-*", ["s1", "s4"])
    assert [lost["pattern"] for lost in found["losers"]] == ["web-prod-*"]
    assert "no mapping any more" in run("remove", "web-prod-*", "s1", "s2")
    assert run("list") == "web-prod-oneoff-*  s1, s4\n"
    (tmp_path / "buildstep.toml").write_text("[http]\nattempts = 1\n")
    assert "no answer from the Consul agent" in run(
        "list", "--register", f"consul://127.0.0.1:{free_port()}", status=21
    )


def test_d08_flags_for_tls_and_the_token(
    secure: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert secure.ca
    assert secure.client_cert
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("any")  # there are no access rules
    cert, key = map(str, secure.client_cert)
    flags = ["--consul-ca-file", str(secure.ca), "--consul-cert-file", cert, "--consul-key-file", key]
    more = ["--consul-token-file", "token", "--consul-datacenter", "dc1"]
    assert cli.main(["map", "add", "by-flags", "x", "--register", secure.url, *flags, *more]) == 0
    assert secure.raw(f"{PREFIX}by-flags") == "x"
    argv = ["map", "list", "--register", secure.url, *flags, "--consul-namespace", "team"]
    assert cli.main(argv) == 21
    assert "Enterprise feature" in capfd.readouterr().err


def test_a_value_that_is_too_long_for_consul(open_consul: Agent) -> None:
    with pytest.raises(RegisterError, match="413") as caught:
        register(open_consul).swap("a", tuple(f"service_{number}" for number in range(50_000)), None)
    assert "512 KiB" in caught.value.hint


@pytest.mark.parametrize("ci", ["", "true"])
def test_a_consul_that_cannot_be_fetched_is_told(
    ci: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        raise GuestError("no mirror has it")

    monkeypatch.setattr(consul_server, "_fetch", fail)
    monkeypatch.setattr(fixtures, "CACHE", tmp_path / "venv")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(pytest.fail.Exception if ci else pytest.skip.Exception, match="no mirror has it"):
        consul_server.program()
