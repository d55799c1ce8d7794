"""Services that are watched: how often each, and how what is down is brought up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from buildstep.errors import SpecError
from buildstep.services.apply import Outcome
from buildstep.services.flow import How, Services
from buildstep.services.inputs import seconds_of
from buildstep.services.interface import ServiceError
from buildstep.services.life_cycle import Verb
from buildstep.services.plan import Wish
from buildstep.services.recurring import LONGEST, Clock, Rules, Watch
from buildstep.services.repository import Repository
from buildstep.services.run_context import Fate, Result, Watcher
from buildstep.services.states import State
from buildstep.services.template_keys import Kind, wrong
from tests.unit.services.in_memory import Seen
from tests.unit.services.repositories import create, template


@dataclass
class Runs:
    """Services that take note of what is asked of them. dead: those that a monitor finds so."""

    repository: Repository
    dead: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    error: Exception | None = None

    def run(self, wish: Wish, _watcher: Watcher, _how: How) -> Outcome:
        if self.error is not None:
            raise self.error
        self.asked.append(f"{'+'.join(wish.verbs)} {' '.join(sorted(wish.names))}")
        rows = []
        for key in wish.names:
            bad = key in self.dead
            state, fate = (State.DEAD, Fate.FAILED) if bad else (State.UP, Fate.DONE)
            rows.append(Result(key=key, verb=Verb.MONITOR, fate=fate, state=state))
        return Outcome(results=tuple(rows), seconds=0.0)

    def taken(self) -> list[str]:
        """Return what was asked since the last call."""
        found, self.asked = self.asked, []
        return found


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def clock(self) -> Clock:
        return Clock(now=lambda: self.now, sleep=lambda _seconds: None)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    template(tmp_path, "quick", {"service.hrd": "recurring.monitor = 30s\nrecurring.cleanup = 1h\n"})
    template(tmp_path, "slow")
    create(tmp_path, "quick")
    create(tmp_path, "slow")
    return Runs(Repository.open(tmp_path))


def watch(runs: Runs, time: Time, **rules: bool) -> Watch:
    return Watch(
        cast("Services", runs), (), Seen(), Rules(every=300.0, restart=rules.get("restart", False)),
        clock=time.clock(),
    )  # fmt: skip


def test_each_is_asked_as_often_as_it_says(runs: Runs) -> None:
    time = Time()
    watching = watch(runs, time)
    assert watching.step() == 30.0
    assert runs.taken() == ["monitor quick!main slow!main", "cleanup quick!main"]
    time.now += 30.0
    assert watching.step() == 30.0
    assert runs.taken() == ["monitor quick!main"]
    time.now += 10.0
    assert watching.step() == 20.0
    assert runs.taken() == []
    time.now += 3600.0
    watching.step()
    assert runs.taken() == ["monitor quick!main slow!main", "cleanup quick!main"]


def test_a_span_that_is_none_is_told(runs: Runs) -> None:
    runs.repository.services["slow!main"].set({"recurring.monitor": "often"})
    with pytest.raises(SpecError, match=r"slow!main: recurring\.monitor"):
        watch(runs, Time()).spans()


@pytest.mark.parametrize(
    "text", ["90", "1.5", "2m", "3min", "250ms", "1h", "7d", "0", "0s", "-1", "5 w", "2x", "m"]
)
def test_a_check_of_templates_takes_the_spans_that_a_run_takes(text: str) -> None:
    try:
        taken = seconds_of(text, "here") > 0
    except SpecError:
        taken = False
    assert (wrong(Kind.DURATION, text) == "") is taken


def test_what_is_dead_is_brought_up_after_pauses_that_grow(runs: Runs) -> None:
    time, pauses = Time(), []
    runs.dead = {"quick!main"}
    watching = watch(runs, time, restart=True)
    last = time.now
    for _ in range(400):
        watching.step()
        if any(row.startswith("stop+start quick!main") for row in runs.taken()):
            pauses.append(time.now - last)
            last = time.now
        time.now += 30.0
    assert pauses[:4] == [0.0, 30.0, 600.0, 1200.0]
    assert max(pauses) <= LONGEST
    runs.dead = set()
    time.now += LONGEST
    watching.step()
    assert watching.troubles == {}


def test_what_passes_does_not_end_the_watch(runs: Runs) -> None:
    time = Time()
    watching = watch(runs, time)
    runs.error = ServiceError("node7 cannot be reached")
    assert watching.step() == 60.0
    runs.error = None
    watching.step()
    assert runs.taken()[0] == "monitor quick!main slow!main"
