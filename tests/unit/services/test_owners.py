"""Whose a service is, at a place where two repositories use the same key."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from buildstep.services.interface import Action, Answer, Call, Facts, Outcome, Side, Where
from buildstep.services.places.here import Node
from buildstep.services.runtime.records import Records, folder_name
from buildstep.services.runtime.supervisors.systemd import unit_name

KEY = "x!main"


def act(place: Node, action: Action) -> Outcome:
    facts = Facts(key=KEY, name="x", instance="main", role="x")
    call = Call(facts=facts, side=Side.NODE, action=action, digest="d", timeout=20)
    return place.run(call, print, threading.Event())


def node(state: Path, owner: str) -> Node:
    return Node(Where(state=state, owner=lambda: owner))


@pytest.mark.commands
def test_a_second_repository_is_refused_until_the_first_has_uninstalled(tmp_path: Path) -> None:
    state = tmp_path / "node"
    first, second = node(state, "a1 host:/one"), node(state, "b2 host:/two")
    assert act(first, Action.CONFIGURE).answer is Answer.OK
    refused = act(second, Action.STOP)
    assert refused.answer is Answer.FAILED
    assert "for another repository: host:/one." in refused.message
    assert str(state / KEY / "owner") in refused.message
    second.forget(KEY)  # what is not its own stays
    assert (Side.NODE, Action.CONFIGURE) in first.done(KEY)
    assert act(node(state, "a1 host:/moved"), Action.CONFIGURE).answer is Answer.OK
    assert (state / KEY / "owner").read_text() == "a1 host:/moved\n"
    assert act(first, Action.UNINSTALL).answer is Answer.OK
    assert act(second, Action.CONFIGURE).answer is Answer.OK
    second.forget(KEY)
    assert not (state / KEY).exists()


def test_records_are_their_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Records(str(tmp_path / "above/services"), KEY).make("done")
    finally:
        os.umask(before)
    modes = {
        name: stat.S_IMODE((tmp_path / name).stat().st_mode)
        for name in ("above", "above/services", f"above/services/{KEY}", f"above/services/{KEY}/done")
    }
    assert list(modes.values()) == [0o755, 0o755, 0o700, 0o700], modes


def test_a_key_of_any_length_has_a_name_that_a_file_can_have() -> None:
    long = [f"node.ssh!{'n' * 91}:{'a' * 100}!{last}" for last in ("b" * 100, "c" * 100)]
    names = [folder_name(key) for key in long] + [unit_name(key, 12) for key in long]
    assert len(set(names)) == 4
    assert all(len(name) < 240 for name in names)
    assert folder_name("redis!main") == "redis!main"
    assert unit_name("redis!main", 1) == "buildstep-redis:main.1.service"
