"""Builds that are killed at any moment: nothing is left running or mounted, and the next build is right."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from buildstep.build import steps
from tests.integration.conftest import demand
from tests.integration.support import LIMIT, Lab, end, host_state, none_left, wait_for, write_base
from tests.integration.test_kill import DRIVER
from tests.rounds import chosen, rounds

SMALL_LAYERS = """
from buildstep.emit import split_layer
split_layer.LAYER_TARGET = 100_000
"""
"""So that many layers, chunks and records are written while the signal comes."""

COUNT = 200
"""Kills of warm builds: at random times, and at the beginning and end of every step."""
COLD = 100
"""Kills of builds in a pool with nothing in it, with packages."""
BOUNDARIES = [(step.name, after) for step in steps.STEPS for after in (False, True)]


@dataclass(kw_only=True)
class Range:
    """A lab whose builds are killed. seconds: that a good build takes; right: the digests of what it writes."""

    lab: Lab
    seconds: float = 0.0
    right: set[str] = field(default_factory=set)

    def argv(self, *arguments: str) -> list[str]:
        driver = os.fspath(self.lab.top / "driver.py")
        return [self.lab.python, "-P", driver, *self.lab.argv("--json", *arguments)[4:]]

    def prepare(self) -> None:
        """Build once, to know what is right and how long it takes."""
        begin = time.monotonic()
        self.right = self.built()
        self.seconds = time.monotonic() - begin

    def built(self) -> set[str]:
        done = self.lab.run(self.argv(), env={"STOP_AT": "", "READY": ""})
        assert done.status == 0, done.stderr
        assert self.lab.leftovers() == [], "the build heals what the killed one left"
        return {row["sha256"] for row in done.json["files"]}

    @contextmanager
    def started(self, **env: str) -> Iterator[subprocess.Popen[str]]:
        child = subprocess.Popen(
            self.argv(), env=self.lab.env(**{"STOP_AT": "", "READY": "", **env}), cwd=self.lab.top, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            yield child
        finally:
            end(child)

    def kill_after(self, seconds: float) -> None:
        with self.started() as child:
            time.sleep(seconds)
            child.kill()
            child.communicate(timeout=LIMIT)

    def kill_at(self, step: str, *, after: bool) -> None:
        """Kill a build when it comes to a step, or to its end; where it does not come there, when it is over."""
        ready = self.lab.top / "ready"
        env = {"READY": os.fspath(ready), "STOP_AT": step, "STOP_AFTER": "yes" if after else ""}
        with self.started(**env) as child:
            wait_for(lambda: ready.exists() or child.poll() is not None)
            child.kill()
            child.communicate(timeout=LIMIT)
        ready.unlink(missing_ok=True)

    def check(self, before: dict[str, object]) -> None:
        """Nothing runs, nothing is mounted, and the next build is right and clears up."""
        assert none_left(os.fspath(self.lab.top)) == []
        assert host_state(self.lab.top) == before
        assert self.built() == self.right

    def kept(self) -> tuple[int, int]:
        """How many files, and bytes, the pool has."""
        found = [path for path in self.lab.pool.rglob("*") if path.is_file() and not path.is_symlink()]
        found = [path for path in found if "locks" not in path.parts]
        return len(found), sum(path.stat().st_size for path in found)

    def verify(self) -> None:
        checked = self.lab.command("cache", "verify", "--pool", self.lab.uri)
        assert checked.status == 0, checked.stdout + checked.stderr


@pytest.fixture
def shooting(tmp_path: Path) -> Range:
    demand("root", "namespaces", "overlay", "busybox", "rsync")
    base = write_base(tmp_path / "base.tar")
    lab = Lab(top=tmp_path / "lab", base=base, environ={"SOURCE_DATE_EPOCH": "1700000000"})
    lab.manifest(build={"order": "packages-first", "packages": ["one-1"], "formats": ["oci", "tar"]})
    rng = random.Random(3)
    for number in range(100):
        (lab.proto / f"d{number % 7}").mkdir(exist_ok=True)
        (lab.proto / f"d{number % 7}/f{number}").write_bytes(rng.randbytes(4000))
    (lab.top / "driver.py").write_text(SMALL_LAYERS + DRIVER)
    made = Range(lab=lab)
    made.prepare()
    return made


def edit(shooting: Range, number: int) -> None:
    """Give the build something to do: other content; the second time the content as it was."""
    for index in range(number % 3 + 1):
        path = shooting.lab.proto / f"d0/f{index * 7}"
        data = path.read_bytes()
        path.write_bytes(data[::-1])
    shutil.rmtree(shooting.lab.pool / "state/artifacts", ignore_errors=True)


def test_warm_builds_killed_at_any_moment(shooting: Range) -> None:
    rng = random.Random(300)
    before, alone = host_state(shooting.lab.top), shooting.kept()
    moments: list[float | tuple[str, bool]] = [*BOUNDARIES * 4]
    moments += [rng.uniform(0.05, 1.1) for _ in range(COUNT - len(moments))]
    rng.shuffle(moments)
    for number, moment in enumerate(chosen(moments, 3)):
        edit(shooting, number)
        if isinstance(moment, tuple):
            shooting.kill_at(moment[0], after=moment[1])
        else:
            shooting.kill_after(moment * shooting.seconds)
        edit(shooting, number)  # as it was
        shooting.check(before)
    shooting.verify()
    files, size = shooting.kept()
    assert files <= alone[0] * 8, "what was tried is kept for later, and no more"
    assert size <= alone[1] * 8


def test_cold_builds_killed_at_any_moment(shooting: Range) -> None:
    rng = random.Random(100)
    before = host_state(shooting.lab.top)
    expected = None
    for _ in range(rounds(COLD, 1)):
        shutil.rmtree(shooting.lab.pool)
        shooting.kill_after(rng.uniform(0.05, 1.1) * shooting.seconds)
        shooting.check(before)
        shooting.verify()
        kept = shooting.kept()
        expected = expected or kept
        assert kept[0] <= expected[0] + 5, "a killed build leaves nothing in the pool for ever"
        assert kept[1] <= expected[1] * 1.1
