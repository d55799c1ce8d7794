"""A package script takes no more of the machine than its limits: processes, memory, output, time, room."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.support import none_left
from tests.rounds import chosen
from tests.walls import scene
from tests.walls.scene import Scene

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Hog:
    """A package that takes too much. limits: of the build; named: words of the message that says so."""

    name: str
    script: str
    limits: dict[str, int]
    named: tuple[str, ...]


HOGS = (
    Hog(
        name="fork-bomb",
        script="""#!/usr/bin/perl
# fork-bomb-mark
for (1 .. 2000) { my $pid = fork; if (!defined $pid) { die "no more processes: $!\\n" } if (!$pid) { sleep 60; exit } }
sleep 60;
""",
        limits={"pids": 300},
        named=("pids", "300"),
    ),
    Hog(
        name="memory-hog",
        script="""#!/usr/bin/perl
my @all; for (1 .. 1024) { push @all, 'x' x (1 << 20); }
sleep 1;
""",
        limits={"memory": 300 * MIB},
        named=("memory",),
    ),
    Hog(
        name="talker",
        script="""#!/bin/sh
head -c 400000000 /dev/zero | tr '\\0' 'x' | fold -w 1000
""",
        limits={"output": 20 * MIB},
        named=("output",),
    ),
    Hog(
        name="one-line",
        script="""#!/bin/sh
head -c 400000000 /dev/zero | tr '\\0' 'x'
""",
        limits={"output": 20 * MIB},
        named=("output",),
    ),
)


@pytest.fixture(scope="module", params=chosen(("overlay", "user"), 1))
def place(request: pytest.FixtureRequest, hostile_base: Path) -> Iterator[Scene]:
    with scene.scene(request.param, hostile_base) as made:
        for hog in HOGS:
            made.repository.put(hog.name, "1", postinst=hog.script)
        made.repository.put("quiet", "1", postinst="#!/bin/sh\nsleep 300\n")
        made.repository.put("calm", "1")
        made.repository.put("hole", "1", postinst="#!/bin/sh\ntruncate -s 1T /var/lib/hole\n")
        yield made


@pytest.mark.parametrize("hog", chosen(HOGS, 2), ids=lambda hog: hog.name)
def test_a_build_that_takes_too_much_fails_and_says_of_what(place: Scene, hog: Hog) -> None:
    place.lab.manifest(build={"limits": hog.limits})
    begin = time.monotonic()
    done = place.build(hog.name)
    seconds = time.monotonic() - begin
    assert done.status == 12, f"{done.status}: {done.stderr[-3000:]}"
    said = [line for line in done.stderr.splitlines() if line.startswith("buildstep: ")]
    text = done.stderr[-6000:].lower()
    assert said
    assert [word for word in hog.named if word not in text] == [], text
    assert "limit" in text
    assert seconds < 60
    assert none_left(f"{hog.name}-mark") == []
    assert place.lab.leftovers() == []


@pytest.mark.full
@pytest.mark.parametrize("name", ["talker", "one-line"])
def test_output_is_not_kept_in_memory(place: Scene, name: str) -> None:
    """400 MB of output, and a limit above it: neither the build's memory nor its event file has all of it."""
    place.lab.manifest(build={"limits": {"output": 1 << 30}})
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = place.build(name)
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert done.status == 0, done.stderr[-3000:]
    assert after <= max(before, 300 * 1024), "peak memory in KiB"
    logs = sum(path.stat().st_size for path in (place.lab.pool / "state/logs").glob("*"))
    assert logs < 64 * MIB
    assert len(done.stderr) < 8 * MIB


def test_a_build_beside_has_its_own_room(place: Scene) -> None:
    """After all of these, a harmless build is as it was."""
    place.lab.manifest(build={"limits": {"pids": 300, "memory": 600 * MIB}})
    place.built("calm")


@pytest.mark.full
def test_a_script_that_waits_is_stopped(place: Scene) -> None:
    place.lab.manifest(build={"timeouts": {"command": 15}})
    done = place.build("quiet")
    assert done.status == 12, done.stderr
    assert "15" in done.stderr
    assert place.lab.leftovers() == []


def test_a_hole_of_a_terabyte_takes_no_terabyte(place: Scene) -> None:
    """A file that is one hole costs nothing to make and hours to hash: it ends the build soon, and is named."""
    place.lab.manifest()
    begin = time.monotonic()
    done = place.build("hole")
    assert time.monotonic() - begin < 60
    assert done.status == 12, done.stderr
    assert "/var/lib/hole" in done.stderr
    assert "limits.file_size" in done.stderr
    assert os.statvfs(place.top).f_bavail > 0
