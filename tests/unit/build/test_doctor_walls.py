"""Each wall of the doctor's table is found to be missing where what a command sees says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildstep.build.doctor import walls
from buildstep.build.doctor.findings import Examination
from buildstep.spec.config import Config
from buildstep.system import bubblewrap

SEEN = (
    "Name:\tcat\nPid:\t2\nNoNewPrivs:\t1\nSeccomp:\t2\nCapPrm:\t00000000a80400fb\nCapBnd:\t000001ffffffffff\n",
    "21 20 0:30 /x / rw,nosuid,nodev,relatime - overlay overlay rw\n22 21 0:31 / /dev rw,nosuid - tmpfs tmpfs rw\n",
    "Inter-|   Receive\n face |bytes\n    lo:       0       0\n",
)


def missing(inside: walls.Inside) -> set[str]:
    """The walls that are said not to be there, of those that are read from what a command sees."""
    seen = Examination(spec=None, proto=None, config=Config(), pool=None, environ={}, findings=[])
    asked = ("host tree", "devices", "setuid", "new privileges", "capabilities", "processes", "network")
    return {wall.name for wall in walls.WALLS if wall.name in asked and wall.look(seen, inside)}


@pytest.fixture
def inside() -> walls.Inside:
    return walls.parse("\f".join(SEEN))


def test_what_a_command_sees_is_read(inside: walls.Inside) -> None:
    assert inside.options == ("rw", "nosuid", "nodev", "relatime")
    assert inside.status["CapPrm"] == "00000000a80400fb"
    assert inside.interfaces == ("lo",)
    assert not inside.problem


def test_all_are_there(inside: walls.Inside) -> None:
    assert missing(inside) == set()


@pytest.mark.parametrize(
    ("change", "wall"),
    [
        ({"options": ("rw", "nosuid")}, "devices"),
        ({"options": ("rw", "nodev")}, "setuid"),
        ({"status": {"NoNewPrivs": "0"}}, "new privileges"),
        ({"status": {"CapPrm": "0000000000200000"}}, "capabilities"),
        ({"status": {"Pid": "48213"}}, "processes"),
        ({"interfaces": ("lo", "eth0")}, "network"),
    ],
)
def test_one_that_is_missing_is_named(inside: walls.Inside, change: dict[str, Any], wall: str) -> None:
    if "status" in change:
        change = {"status": {**inside.status, **change["status"]}}
    assert missing(replace(inside, **change)) == {wall}


def test_where_no_command_can_be_run_none_of_them_is_there() -> None:
    names = missing(walls.Inside(problem="no namespaces"))
    assert names == {
        "host tree",
        "devices",
        "setuid",
        "new privileges",
        "capabilities",
        "processes",
        "network",
    }


def test_an_open_pool_is_told(tmp_path: Path) -> None:
    class Backend:
        state = tmp_path / "pool/state"

    Backend.state.mkdir(parents=True)
    seen = Examination(spec=None, proto=None, config=Config(), pool=None, environ={}, findings=[])
    seen.backend = Backend()  # type: ignore[assignment]
    look = next(wall.look for wall in walls.WALLS if wall.name == "pool")
    for mode, told in ((0o755, True), (0o700, False)):
        (tmp_path / "pool").chmod(mode)
        Backend.state.chmod(0o755)
        assert bool(look(seen, walls.Inside())) is told


def test_every_capability_has_its_number() -> None:
    assert set(bubblewrap.CAPABILITIES) == set(walls._CAPABILITY_NUMBERS)
