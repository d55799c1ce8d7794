"""What a package script leaves in the image does not lead the build to anything of the host, and does not stop it.

Links, hard links, pipes, names, replaced programs: all in one build for each kind of pool, which has to succeed.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support import host_state, none_left
from tests.rounds import chosen
from tests.walls import scene
from tests.walls.attacks_image import ATTACKS


@pytest.fixture(scope="module", params=chosen(scene.KINDS, 1))
def assault(request: pytest.FixtureRequest, hostile_base: Path) -> Iterator[scene.Assault]:
    with scene.scene(request.param, hostile_base) as place:
        before = host_state(place.top)
        made = scene.assault(place, ATTACKS)
        assert host_state(place.top) == before
        assert place.lab.leftovers() == []
        yield made


@pytest.mark.parametrize("name", [one.name for one in ATTACKS])
def test_the_build_is_led_nowhere(assault: scene.Assault, name: str) -> None:
    assert assault.wrong(name) == []


def test_nothing_got_through(assault: scene.Assault) -> None:
    assert assault.canaries.reached == []
    assert assault.canaries.survived
    assert none_left(f"swapping-{assault.canaries.pid}") == []


def test_escapes_do_not_reach_the_log(assault: scene.Assault) -> None:
    """A terminal that shows the log, and a CI system that reads commands in it, get plain text."""
    log = assault.done.stderr + assault.done.stdout
    assert [
        repr(line) for line in log.splitlines() if "\x1b" in line or "\x07" in line or "\x9b" in line
    ] == []
    assert [line for line in log.splitlines() if line.startswith(("::set-env", "##[", "##teamcity"))] == []


def test_the_image_is_what_the_script_left(assault: scene.Assault) -> None:
    """Links are links and pipes are pipes there: nothing was followed, opened or left out."""
    members = assault.image.members("var/")
    kinds = {
        "var/log/pipe.log": tarfile.FIFOTYPE,
        "var/lib/dpkg/info/hostile.pipe": tarfile.FIFOTYPE,
        "var/lib/swapped": tarfile.DIRTYPE,
        "var/mail": tarfile.SYMTYPE,
    }
    assert {path: members[path][0].type for path in kinds if path in members} == kinds
    names = [path for path in members if path.startswith("var/lib/names/")]
    assert len(names) == 17, names
    assert members["var/lib/closed/below/further/file"][1] == b"x\n"
