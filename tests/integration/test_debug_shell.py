"""--shell-on-failure: a shell where the failed command ran, and the command it prints does there what it did."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from buildstep.build.steps import STEPS
from tests.integration.person import Person, at_a_terminal
from tests.integration.repository import make_repository
from tests.integration.support import Lab
from tests.integration.yard import Yard

DRIVER = """\
# The command line as it is, but one step fails once its work is done.
import os, sys
from buildstep.build.steps import interface
from buildstep.cli import main
from buildstep.errors import EmitError

real = interface.Step.load

class Failing:
    def __init__(self, module):
        self.plan, self._run = module.plan, module.run

    def run(self, context, state, result):
        self._run(context, state, result)
        raise EmitError("a step that fails")

def load(step):
    module = real(step)
    return Failing(module) if step.name == os.environ["FAIL_AT"] else module

interface.Step.load = load
sys.exit(main())
"""


@pytest.fixture
def lab(base: Path, tmp_path: Path) -> Lab:
    return Lab(top=tmp_path, base=base, environ={"TERM": "xterm"})


def pasted(person: Person) -> str:
    """The command that the screen says to run again."""
    shown = person.sees("when you leave the shell", 90.0)
    (command,) = re.findall(r"To run the command again:\s+(\S[^\r\n]*)", shown)
    assert isinstance(command, str)
    return command


def answer(person: Person, command: str) -> str:
    """Type a command; return what it printed, and its status in the last line."""
    person.seen = ""
    person.type(f"{command}; echo end''ed-$?.\n")
    return re.sub(r"(?s).*?\n", "", person.sees("ended-"), count=1) + person.sees(".\r\n")


def left(person: Person, lab: Lab, status: int) -> None:
    """Leave the shell: the build ends with its own status and leaves nothing."""
    person.type("exit\n")
    assert person.status() == status, person.seen
    assert lab.leftovers() == []
    assert lab.outputs() == {}


def test_a_failed_package_in_the_image(lab: Lab) -> None:
    """With the package manager's own PATH, and what is mended there lets the command pass."""
    argv = lab.argv("-p", "fail-1", "--shell-on-failure")
    with at_a_terminal(argv, lab.env(), lab.top) as person:
        command = pasted(person)
        assert command == "/opt/local/sbin/pkg_add -U fail-1"
        assert "no pkg found" in person.seen, "the detail is told before the shell, not after it"
        assert "with the command's mounts and environment, and the network" in person.seen
        again = answer(person, command)
        assert "pkg_add: no pkg found for 'fail-1', sorry." in again
        assert "ended-1." in again
        assert "/opt/local/sbin:/opt/local/bin" in answer(person, "echo $PATH")
        assert "http://127.0.0.1:3128" in answer(person, "env | sed -n s/^http_proxy=//p")
        assert "hello" in answer(person, "cat /etc/hello")
        assert "ended-0." in answer(person, f"echo exit 0 > /opt/local/sbin/pkg_add; {command}")
        left(person, lab, 12)


def test_a_failed_apt_with_what_it_was_shown(place: Yard, tmp_path: Path) -> None:
    """Package lists and files are shown for each command by itself, and are gone after it."""
    lab = Lab(top=tmp_path, base=place.base, environ={"TERM": "xterm", **place.environ})
    repository = make_repository(place, tmp_path / "repository")
    repository.put("broken", "1.0", postinst="#!/bin/sh\necho cannot go on >&2\nexit 7\n")
    with (
        repository.served(),
        at_a_terminal(
            lab.argv("-f", "tar", "-p", "broken", "--shell-on-failure"), lab.env(), lab.top
        ) as person,
    ):
        command = pasted(person)
        assert command.startswith("apt-get --config-file=")
        assert "mounts and environment, and no network" in person.seen
        again = answer(person, command)
        assert "cannot go on" in again
        assert "ended-100." in again
        assert "broken_1.0_all.deb" in answer(person, "ls /run/buildstep-apt/archives")
        assert "noninteractive" in answer(person, "echo $DEBIAN_FRONTEND")
        assert "ended-0." in answer(person, f"echo exit 0 > /var/lib/dpkg/info/broken.postinst; {command}")
        left(person, lab, 12)


def test_a_failed_rsync_on_the_host(lab: Lab) -> None:
    tools = lab.top / "tools"
    tools.mkdir()
    rsync = tools / "rsync"
    real = shutil.which("rsync")
    rsync.write_text(
        f'#!/bin/sh\n[ -e {lab.top}/mended ] || {{ echo rsync: broken >&2; exit 23; }}\nexec {real} "$@"\n'
    )
    rsync.chmod(0o755)
    env = lab.env(BUILDSTEP_PLAIN="1", PATH=f"{tools}:/usr/bin:/bin")
    with at_a_terminal(lab.argv("--shell-on-failure"), env, lab.top) as person:
        command = pasted(person)
        assert command.startswith("rsync ")
        assert "A shell on the CI host" in person.seen
        (root,) = re.findall(r"The root of the image:\s+(\S+)", person.seen)
        assert "ended-23." in answer(person, command)
        assert "ended-0." in answer(person, f"touch mended; {command}")
        assert "hello" in answer(person, f"cat {root}/etc/hello")
        assert "job control" not in answer(person, "sleep 0 & wait")
        left(person, lab, 4)


@pytest.mark.parametrize("name", [step.name for step in STEPS if step.name not in ("import", "destroy")])
def test_every_step_that_has_a_root_has_a_shell(name: str, lab: Lab) -> None:
    """The others have none: the first makes what is cloned, the last drops it."""
    driver = lab.top / "driver.py"
    driver.write_text(DRIVER)
    asked = {
        "groups": [{"name": "g", "gid": 77}],
        "units": {"mask": ["x.service"]},
        "run": ["true"],
        "trust": True,
    }
    lab.manifest(build={"motd": True, "source_repo": "https://example.org/x", **asked})
    python, _, _, _, *argv = lab.argv("-p", "one-1", "--shell-on-failure")
    env = lab.env(FAIL_AT=name.replace("run", "run:1"))
    with at_a_terminal([python, "-P", os.fspath(driver), *argv], env, lab.top) as person:
        person.sees("when you leave the shell")
        assert "buildstep: a step that fails" in person.seen
        assert "A shell in the image." in person.seen
        assert "To run the command again" not in person.seen
        assert "ID=tiny" in answer(person, "cat /etc/os-release")
        expected = "hello" if name not in ("clone", "accounts") else "No such file"
        assert expected in answer(person, "cat /etc/hello")
        left(person, lab, 14)


def test_it_is_shown_where_the_person_looks(lab: Lab) -> None:
    """Standard output goes to a file, as in `make image`."""
    with (lab.top / "stdout").open("wb") as out:
        argv = lab.argv("-p", "fail-1", "--shell-on-failure", "--json")
        with at_a_terminal(argv, lab.env(), lab.top, stdout=out.fileno()) as person:
            assert "ended-1." in answer(person, pasted(person))
            left(person, lab, 12)
    assert (lab.top / "stdout").read_bytes() == b""


def test_an_image_without_a_shell_gets_the_hosts(lab: Lab) -> None:
    driver = lab.top / "driver.py"
    driver.write_text(DRIVER)
    python, _, _, _, *argv = lab.argv("--shell-on-failure")
    argv[argv.index("-i") + 1] = "scratch"
    env = lab.env(FAIL_AT="sync", BUILDSTEP_PLAIN="1")
    with at_a_terminal([python, "-P", os.fspath(driver), *argv], env, lab.top) as person:
        shown = person.sees("when you leave the shell", 90.0)
        (root,) = re.findall(r"The root of the image:\s+(\S+)", shown)
        assert "hello" in answer(person, f"cat {root}/etc/hello")
        left(person, lab, 14)


def test_without_a_terminal_it_says_so(lab: Lab) -> None:
    done = lab.refused(12, "-p", "fail-1", "--shell-on-failure")
    assert "no shell is opened, as standard input or output is no terminal; --keep-on-failure" in done.stderr
    assert done.stderr.count("no shell is opened") == 1
