"""`buildstep run`: an image's programs in a copy that is thrown away, for a person, a script and a browser."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import demand
from tests.integration.person import at_a_terminal
from tests.integration.support import Done, Lab, end, host_state, none_left, ours, wait_for, write_base
from tests.servers.static import StaticFiles

HTTPD = ["/usr/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/srv/www"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A lab in which an image was built."""
    demand("root", "namespaces", "overlay", "busybox", "rsync")
    base = write_base(tmp_path_factory.mktemp("base") / "base.tar")
    lab = Lab(top=tmp_path_factory.mktemp("lab"), base=base)
    (lab.proto / "srv/www").mkdir(parents=True)
    (lab.proto / "srv/www/index.html").write_text("a page\n")
    oci = {"cmd": HTTPD, "env": {"A": "b"}, "workdir": "/srv/new"}
    lab.manifest(build={"oci": oci})
    lab.built()
    return lab


@pytest.fixture
def image(lab: Lab) -> str:
    return os.fspath(lab.out / "hello-1.0.0.oci.tar")


def argv(lab: Lab, image: str, *words: str) -> list[str]:
    return [lab.python, "-P", "-m", "buildstep", "run", "--pool", lab.uri, *words[: words.index("|")], image,
            *words[words.index("|") + 1 :]]  # fmt: skip


def run(lab: Lab, image: str, *words: str, **popen: Any) -> Done:
    """Run a command; a bar in `words` stands for the image."""
    before = host_state(lab.top)
    done = lab.run(argv(lab, image, *words), **popen)
    assert lab.leftovers() == []
    assert host_state(lab.top) == before
    return done


def test_a_command_has_what_the_image_says_and_its_status_is_ours(lab: Lab, image: str) -> None:
    done = run(lab, image, "|", "--", "sh", "-c", "env; pwd; id -u; echo warn >&2; touch /made; exit 7",
               env={"SECRET_TOKEN": "s3cret"})  # fmt: skip
    assert done.status == 7
    lines = done.stdout.splitlines()
    assert {"A=b", "HOME=/root", "/srv/new", "0"} <= set(lines)
    assert not any(line.startswith(("SECRET", "BUILDSTEP", "PYTHON")) for line in lines)
    assert done.stderr == "warn\n"
    assert run(lab, image, "|", "ls", "/made").status == 1, "what was written is gone"
    given = run(lab, image, "-e", "A=c", "-u", "0:44", "-w", "/srv", "|", "--", "sh", "-c", "echo $A; pwd")
    assert given.status == 13, "the image has nothing that changes to another group"
    assert "none of setpriv, chroot and su" in given.stderr
    given = run(lab, image, "-e", "A=c", "-w", "/srv", "|", "--", "sh", "-c", "echo $A; pwd")
    assert given.stdout == "c\n/srv\n"


@pytest.mark.parametrize("what", ["record", "directory", "store"])
def test_every_way_to_name_an_image(lab: Lab, image: str, what: str, tmp_path: Path) -> None:
    name = os.fspath(lab.out / "hello-1.0.0.buildrecord.json")
    if what == "directory":
        name = os.fspath(tmp_path / "layout")
        shutil.unpack_archive(image, name, "tar")
    elif what == "store":
        name = "scratch"
        done = run(lab, name, "|")
        assert (done.status, "scratch has no command of its own" in done.stderr) == (2, True)
        assert run(lab, name, "|", "true").status == 127
        return
    assert run(lab, name, "|", "--", "cat", "/srv/www/index.html").stdout == "a page\n"


def test_standard_input_is_read_if_that_is_asked_for(lab: Lab, image: str) -> None:
    much = "a line of text\n" * 200_000
    assert run(lab, image, "-i", "|", "--", "cat", input=much).stdout == much
    assert run(lab, image, "|", "--", "cat", input="never").stdout == ""
    assert run(lab, image, "-i", "|", "--", "true", input=much).status == 0


def test_what_cannot_be_run_says_so(lab: Lab, image: str, tmp_path: Path) -> None:
    assert run(lab, image, "|", "--", "nothing").status == 127
    assert run(lab, image, "|", "--", "/etc/passwd").status == 126
    assert run(lab, image, "-t", "|").status == 2
    assert "standard input is none" in run(lab, image, "-it", "|").stderr
    assert run(lab, image, "-p", "80:80:80:80", "|").status == 2
    assert run(lab, os.fspath(tmp_path / "none.tar"), "|").status in (2, 11)
    assert run(lab, image, "-u", "nobody", "|", "true").status == 13
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(lab, image, "-p", str(taken.getsockname()[1]), "|")
    assert done.status == 13
    assert "Address already in use" in done.stderr


def test_the_network_is_a_loopback_of_its_own(lab: Lab, image: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        done = run(lab, image, "|", "--", "busybox", "nc", "-w", "2", "127.0.0.1", port)
    assert done.status != 0
    assert "lo" in run(lab, image, "|", "--", "sh", "-c", "cat /etc/hosts; busybox ip addr").stdout


def started(lab: Lab, image: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        argv(lab, image, *words), env=lab.env(), cwd=lab.top, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def get(port: int, path: str = "/") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_with_the_network_it_reaches_what_a_build_may_and_no_more(
    lab: Lab, image: str, tmp_path: Path
) -> None:
    """Through a proxy; the CI host itself only where that is allowed."""
    (tmp_path / "page").write_text("from outside\n")
    served = StaticFiles(tmp_path)
    with served.served():
        page = f"http://127.0.0.1:{served.port}/page"
        # busybox's wget cannot look up a name where there is no C library: this is what it would say, and waits
        # for the answer.
        script = (
            "where=${http_proxy#http://}; where=${where%/}; "
            f"{{ printf 'GET {page} HTTP/1.0\\r\\n\\r\\n'; sleep 2; }} | busybox nc ${{where%:*}} ${{where#*:}} | grep from"
        )
        fetch = ["sh", "-c", script]
        allowed = {"BUILDSTEP_NETWORK_ALLOW": f"127.0.0.1:{served.port}"}
        done = run(lab, image, "--network", "|", "--", *fetch, env=allowed)
        assert (done.status, done.stdout) == (0, "from outside\n"), done
        for words, env in ((["--network"], {}), ([], allowed)):
            refused = run(lab, image, *words, "|", "--", *fetch, env=env)
            assert refused.status != 0
            assert "from outside" not in refused.stdout
    assert served.asked == ["/page"]


def test_a_port_of_this_machine_leads_into_the_image(lab: Lab, image: str) -> None:
    child = started(lab, image, "-p", "0:80", "|")
    try:
        assert child.stderr is not None
        told = child.stderr.readline()
        assert told.startswith("127.0.0.1:"), told
        assert told.endswith(" leads to port 80 of the image\n")
        port = int(told.split()[0].rpartition(":")[2])

        def answers() -> bool:
            try:
                return get(port) == (200, "a page\n")
            except (OSError, http.client.HTTPException):
                return False

        wait_for(answers, child)
        assert [get(port) for _ in range(5)] == [(200, "a page\n")] * 5
        assert get(port, "/gone")[0] == 404
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 143
    finally:
        end(child)
    assert lab.leftovers() == []


def test_a_signal_is_the_commands_to_heed(lab: Lab, image: str) -> None:
    script = "trap 'echo told; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    child = started(lab, image, "|", "--", "sh", "-c", script)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        assert child.stdout.readline() == "told\n"
        assert child.wait(30) == 5
    finally:
        end(child)
    child = started(
        lab, image, "|", "--", "sh", "-c", "trap '' TERM INT; echo ready; while :; do sleep 0.1; done"
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGINT)  # whoever asks twice means it
        assert child.wait(30) == 137
    finally:
        end(child)
    assert lab.leftovers() == []


def test_nothing_is_left_of_one_that_is_killed(lab: Lab, image: str) -> None:
    child = started(lab, image, "|", "--", "sh", "-c", "sleep 4712 & setsid sleep 4712 & echo up; sleep 4712")
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        child.kill()
        child.wait(30)
        assert none_left("4712") == []
    finally:
        end(child)
    lab.heal()
    assert lab.leftovers() == []


def test_output_that_nobody_reads_any_more_ends_it(lab: Lab, image: str) -> None:
    child = started(lab, image, "|", "--", "sh", "-c", "while :; do echo a line; done")
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    try:
        assert child.wait(30) != 0
    finally:
        end(child)
    assert none_left("echo a line") == []
    assert lab.leftovers() == []


def test_a_person_has_a_terminal_with_job_control(lab: Lab, image: str) -> None:
    env = {**lab.env(), "TERM": "xterm"}
    with at_a_terminal(argv(lab, image, "-it", "|", "--", "sh"), env, lab.top) as person:
        person.type("echo ter''minal $TERM; test -t 0 && test -t 1 && echo y''es\n")
        person.sees("terminal xterm")
        person.sees("yes")
        person.type("sleep 4713\n")
        wait_for(lambda: ours("sleep\x004713"))  # until then the keys are the shell's
        person.type("\x1a")
        person.sees("Stopped")
        person.type("kill %1; fg; echo st''atus $?\n")
        person.sees("status")
        person.type("exit 9\n")
        assert person.status() == 9
    assert lab.leftovers() == []
