"""A package script reads, writes, opens, reaches and runs nothing of the machine that builds.

All attacks run in one build for each kind of pool; each is a test of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support import host_state, none_left
from tests.rounds import chosen
from tests.walls import scene
from tests.walls.attacks_host import ATTACKS

KINDS = chosen(scene.KINDS, 1)


@pytest.fixture(scope="module", params=KINDS)
def assault(request: pytest.FixtureRequest, hostile_base: Path) -> Iterator[scene.Assault]:
    with scene.scene(request.param, hostile_base) as place:
        before = host_state(place.top)
        made = scene.assault(place, ATTACKS)
        assert host_state(place.top) == before
        yield made


@pytest.mark.parametrize("name", [one.name for one in ATTACKS])
def test_a_script_gets_nothing(assault: scene.Assault, name: str) -> None:
    assert assault.wrong(name) == []


def test_what_all_attacks_look_for_is_untouched(assault: scene.Assault) -> None:
    canaries = assault.canaries
    assert canaries.survived, "the host's process was stopped or killed"
    assert canaries.disk_is_whole, "the host's disk was written"
    assert canaries.reached == []
    assert canaries.shared_secret not in assault.done.stdout + assault.done.stderr


def test_nothing_that_a_script_started_is_left(assault: scene.Assault) -> None:
    assert none_left(f"left-daemon-{assault.canaries.pid}") == []


def test_each_attack_can_win(hostile_base: Path, tmp_path: Path) -> None:
    """In a chroot on the host, with no wall, each gets what it is after: that it fails in a build means something."""
    attacks = [one for one in ATTACKS if one.bare]
    got = scene.without_walls(attacks, tmp_path)
    assert [name for name, wrong in got.items() if not any(line.startswith("won ") for line in wrong)] == []
