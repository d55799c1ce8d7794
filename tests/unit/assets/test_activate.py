"""Which version runs: the link, the hooks around its change, the way back, and what a broken hook does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep.assets import activate
from buildstep.assets.activate import HookFailed, Hooks, load_state, roll_back
from buildstep.assets.mark import current
from buildstep.assets.retention import Retention
from buildstep.cli.guard import signals
from buildstep.errors import Interrupted, UsageError
from tests.servers.fixtures import Notes
from tests.unit.assets.pulling import MemoryAssets, archive, member, pulled, simple

pytestmark = pytest.mark.commands


class Host:
    """An install directory with hooks that write to a log."""

    def __init__(self, tmp_path: Path) -> None:
        self.install = tmp_path / "srv"
        self.folder = tmp_path / "hooks"
        self.folder.mkdir()
        self.log = tmp_path / "log"
        self.bus = Notes()
        self.hooks = Hooks(folder=self.folder, timeout=5)
        self.store = MemoryAssets()

    def hook(self, name: str, script: str = "") -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f'#!/bin/sh\necho "$BUILDSTEP_STAGE $BUILDSTEP_SERVICE $BUILDSTEP_VERSION'
            f' $BUILDSTEP_OTHER_VERSION $(readlink {self.install}/web/current)" >>{self.log}\n{script}\n'
        )
        path.chmod(0o755)

    def pull(self, version: str) -> dict[str, str]:
        self.store.add(f"web-{version}.tar.gz", simple(f"web {version}"))
        report = pulled(
            self.store, self.install, activate=True, hooks=self.hooks, bus=self.bus,
            retention=Retention(keep=1),
        )  # fmt: skip
        return report.services["web"].failed

    @property
    def current(self) -> str:
        return current(self.install, "web")

    def lines(self) -> list[str]:
        found = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_d16_the_newest_version_runs_once_it_is_there(host: Host) -> None:
    for stage in ("before", "stop", "after"):
        host.hook(stage)
    assert host.pull("1") == {}
    assert os.readlink(host.install / "web/current") == "1"
    assert host.lines() == ["before web 1  ", "after web 1  1"]
    assert host.pull("2") == {}
    assert host.lines() == ["before web 2 1 1", "stop web 1 2 1", "after web 2 1 2"]
    assert host.pull("2") == {}  # another object, the same content
    assert host.lines() == []


def test_d16_before_fails_and_nothing_was_changed(host: Host) -> None:
    host.pull("1")
    host.hook("before", "echo no room >&2; exit 3")
    host.hook("stop")
    assert "hook before of web 2: " in host.pull("2")["2"]
    assert host.current == "1"
    assert host.lines() == ["before web 2 1 1"]
    host.hook("before")
    assert host.pull("2") == {}  # it is tried again
    assert host.current == "2"


def test_d16_after_fails_and_the_old_version_runs_again(host: Host) -> None:
    host.pull("1")
    host.hook("after", 'test "$BUILDSTEP_VERSION" = 1')
    host.hook("stop")
    assert "web runs 1 again" in host.pull("2")["2"]
    assert host.current == "1"
    assert host.lines() == ["stop web 1 2 1", "after web 2 1 2", "after web 1 2 1"]
    assert host.pull("2") == {}
    assert host.lines() == []  # it is not tried again by itself
    assert "is not activated: its hook `after` failed" in host.bus.texts[-1]
    host.hook("after")
    assert roll_back(host.install, "web", host.hooks, host.bus, to="2") == ("1", "2")
    assert host.current == "2"


def test_d16_another_archive_of_a_version_that_failed_is_tried(host: Host) -> None:
    host.pull("1")
    host.hook("after", 'test "$BUILDSTEP_VERSION" = 1')
    assert host.pull("2")
    host.hook("after")
    host.store.add("web-2.tar.gz", simple("mended"))
    report = pulled(host.store, host.install, activate=True, hooks=host.hooks)
    assert report.services["web"].activated
    assert host.current == "2"


def test_d16_the_first_version_fails_and_nothing_runs(host: Host) -> None:
    host.hook("after", "exit 1")
    assert "web runs nothing" in host.pull("1")["1"]
    assert host.current == ""


@pytest.mark.parametrize("script", ["exit 1", "sleep 60"])
def test_d16_a_broken_stop_hook_of_the_old_version_blocks_no_later_one(
    host: Host, tmp_path: Path, script: str
) -> None:
    """The trap of agents whose stop hook comes from the version that leaves: it can never be replaced."""
    own = archive(
        member("run", b"x"), member(".buildstep/hooks/stop", f"#!/bin/sh\n{script}\n".encode(), mode=0o755)
    )
    host.hooks = Hooks(own=True, timeout=0.3)
    host.store.add("web-1.tar.gz", own)
    assert pulled(host.store, host.install, activate=True, hooks=host.hooks).failed == []
    for version in ("2", "3"):
        assert host.pull(version) == {}
        assert host.current == version
    assert "hook stop of web 1" in host.bus.texts[0]
    assert "web 2 is activated all the same" in host.bus.texts[0]


def test_hooks_of_an_asset_are_only_run_where_that_is_permitted(host: Host, tmp_path: Path) -> None:
    own = archive(member(".buildstep/hooks/before", b"#!/bin/sh\nexit 1\n", mode=0o755))
    host.store.add("web-1.tar.gz", own)
    assert pulled(host.store, host.install, activate=True, hooks=Hooks()).failed == []
    host.store.add("web-2.tar.gz", own)
    assert pulled(host.store, host.install, activate=True, hooks=Hooks(own=True)).failed


def test_a_hook_of_the_service_comes_before_the_common_one(host: Host) -> None:
    host.hook("before", "exit 1")
    host.hook("web/before")
    assert host.pull("1") == {}


def test_a_hook_that_cannot_be_run_is_told(host: Host) -> None:
    host.hook("before")
    (host.folder / "before").chmod(0o644)
    assert "is no program that can be run" in host.pull("1")["1"]


def test_a_script_without_an_interpreter_is_told(host: Host) -> None:
    host.hook("before")
    for script, why in (
        ("echo x\n", "Exec format error"),
        ("#!/no/such/shell\n", "No such file or directory"),
    ):
        (host.folder / "before").write_text(script)
        told = host.pull("1")["1"]
        assert told.startswith("hook before of web 1: ")
        assert told.endswith(f"cannot be started: {why}")


def test_a_signal_during_a_hook_is_no_failure_of_it(host: Host) -> None:
    host.pull("1")
    host.hook("stop", "kill -TERM $PPID; sleep 1")
    host.store.add("web-2.tar.gz", simple("web 2"))
    with pytest.raises(Interrupted), signals():
        pulled(host.store, host.install, activate=True, hooks=host.hooks)
    assert host.current == "1"
    host.hook("stop")
    assert host.pull("2") == {}
    assert host.current == "2"


def test_a_hook_that_does_not_end_is_ended(host: Host) -> None:
    host.hooks = Hooks(folder=host.folder, timeout=0.2)
    host.hook("before", "sleep 60")
    assert "did not end within 0.2 s" in host.pull("1")["1"]


def test_d16_a_rollback_goes_to_the_version_before_and_a_pull_leaves_it_there(host: Host) -> None:
    for version in ("1", "2", "3"):
        host.pull(version)
    host.hook("after")
    assert roll_back(host.install, "web", host.hooks, host.bus) == ("3", "2")
    assert host.lines() == ["after web 2 3 2"]
    assert host.pull("3") == {}
    assert host.current == "2"
    assert "web 3 is not activated: it was rolled back" in host.bus.texts[-1]
    assert roll_back(host.install, "web", host.hooks, host.bus) == ("2", "3")
    assert host.pull("4") == {}
    assert host.current == "4"


def test_a_rollback_of_the_first_version_that_ran_goes_to_the_next_older_one(host: Host) -> None:
    for version in ("1", "9"):
        host.store.add(f"web-{version}.tar.gz", simple(f"web {version}"))
    pulled(host.store, host.install)
    host.pull("10")
    assert host.current == "10"
    assert "9" not in load_state(host.install, "web").history
    assert roll_back(host.install, "web", host.hooks, host.bus) == ("10", "9")


def test_a_rollback_that_cannot_be_is_told(host: Host) -> None:
    host.pull("1")
    back: Callable[..., tuple[str, str]] = lambda **to: roll_back(  # noqa: E731
        host.install, "web", host.hooks, host.bus, **to
    )
    with pytest.raises(UsageError, match="no installed version from before 1"):
        back()
    with pytest.raises(UsageError, match="runs 1 already"):
        back(to="1")
    with pytest.raises(UsageError, match="web 9 is not installed"):
        back(to="9")
    host.pull("2")
    host.hook("before", "exit 1")
    with pytest.raises(HookFailed, match="hook before of web 1") as caught:
        back()
    assert caught.value.code == 4
    assert host.current == "2"


def test_a_pull_that_was_killed_after_the_link_changed_runs_the_last_hook(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.pull("1")
    host.hook("after")
    host.hook("stop")

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(activate._Activation, "_save_done", killed)
        with pytest.raises(Killed):
            host.pull("2")
    assert host.lines() == ["stop web 1 2 1", "after web 2 1 2"]
    assert load_state(host.install, "web").pending == "2"
    assert host.pull("2") == {}
    assert host.lines() == ["after web 2 1 2"]
    assert load_state(host.install, "web").history == ["1", "2"]


def test_a_directory_in_the_place_of_the_link_is_no_link(host: Host) -> None:
    (host.install / "web/current").mkdir(parents=True)
    assert "is no link" in host.pull("1")["1"]


def test_a_damaged_state_is_told(host: Host) -> None:
    host.pull("1")
    (host.install / "web" / activate.STATE).write_text("{}")
    with pytest.raises(UsageError, match="cannot be read"):
        load_state(host.install, "web")
    assert "cannot be read" in host.pull("2")["2"]
