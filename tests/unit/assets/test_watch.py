"""Following a register, with a clock of the test's own: when a pull is made, and what an error does to it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import ClassVar

import pytest

from buildstep.assets.interface import Incomplete, Mappings, RegisterError, Versioned
from buildstep.assets.watch import Clock, Options, Watch
from buildstep.errors import Interrupted, UsageError
from tests.servers.fixtures import Notes


class Time:
    """A clock that only goes on when somebody waits. events: what happens at a time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[tuple[float, Callable[[], None]]] = []

    def until(self, end: float, seen: Callable[[], bool] = lambda: False) -> None:
        for event in sorted(self.events, key=lambda event: event[0]):
            if event[0] <= end and not seen():
                self.events.remove(event)
                self.now = max(self.now, event[0])
                event[1]()
        if not seen():
            self.now = max(self.now, end)


class FakeRegister:
    scheme: ClassVar[str] = "fake"
    url = "fake:"

    def __init__(self, clock: Time) -> None:
        self._clock = clock
        self.services: tuple[str, ...] = ("web",)
        self.index = 1
        self.down = False
        self.asked = 0

    def set(self, *services: str) -> None:
        self.services, self.index = services, self.index + 1

    def read(self) -> Mappings:
        self.asked += 1
        if self.down:
            raise RegisterError("no answer")
        return Mappings(services={"*": self.services}, index=str(self.index))

    def wait(self, index: str, seconds: float) -> Mappings:
        self._clock.until(self._clock.now + seconds, lambda: str(self.index) != index)
        return self.read()

    def load(self, pattern: str) -> Versioned | None:
        raise NotImplementedError

    def swap(self, pattern: str, services: tuple[str, ...] | None, version: str | None) -> bool:
        raise NotImplementedError


class Bench:
    def __init__(self) -> None:
        self.time = Time()
        self.register = FakeRegister(self.time)
        self.bus = Notes()
        self.pulls: list[tuple[float, tuple[str, ...]]] = []
        self.error: BaseException | None = None
        clock = Clock(
            now=lambda: self.time.now,
            sleep=lambda seconds: self.time.until(self.time.now + seconds),
            random=lambda: 0.5,
        )
        self.watch = Watch(
            self.register, lambda found: found.services["*"], self._pull, Options(every=100), self.bus, clock
        )

    def _pull(self, services: tuple[str, ...]) -> None:
        self.pulls.append((round(self.time.now, 2), services))
        if self.error is not None:
            raise self.error

    def at(self, when: float, job: Callable[[], None]) -> None:
        self.time.events.append((when, job))

    def run(self, until: float) -> list[tuple[float, tuple[str, ...]]]:
        while self.time.now < until:
            self.watch.step()
        return self.pulls


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_d16_a_pull_at_once_and_then_every_so_often(bench: Bench) -> None:
    assert bench.run(250) == [(0, ("web",)), (100, ("web",)), (200, ("web",)), (300, ("web",))]
    assert bench.register.asked == 4  # no question without a reason


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EAGAIN])
def test_a_machine_that_lacks_something_does_not_end_the_watch(bench: Bench, number: int) -> None:
    bench.error = OSError(number, os.strerror(number))
    bench.run(1)
    assert len(bench.pulls) > 1
    assert os.strerror(number) in bench.bus.texts[0]


def test_nobody_who_reads_its_output_ends_the_watch(bench: Bench) -> None:
    bench.error = BrokenPipeError(errno.EPIPE, "Broken pipe")
    with pytest.raises(BrokenPipeError):
        bench.run(1)


def test_d16_a_change_is_pulled_once_the_mappings_rest(bench: Bench) -> None:
    for when, services in ((10.0, ("web", "db")), (10.1, ("db",)), (10.2, ("db", "log"))):
        bench.at(when, lambda services=services: bench.register.set(*services))  # type: ignore[misc]
    # 0.2 s of quiet after the last change, and half of the splay.
    assert bench.run(20)[:2] == [(0, ("web",)), (10.65, ("db", "log"))]


def test_mappings_that_never_rest_are_pulled_all_the_same(bench: Bench) -> None:
    for number in range(200):
        bench.at(10 + number / 10, lambda number=number: bench.register.set(f"s{number}"))  # type: ignore[misc]
    assert 12 < bench.run(20)[1][0] < 13


def test_a_change_for_other_hosts_is_no_reason_to_pull(bench: Bench) -> None:
    bench.at(10, lambda: bench.register.set("web"))
    assert bench.run(90) == [(0, ("web",)), (100, ("web",))]


def test_a_register_that_is_away_is_asked_again_and_pulls_go_on(bench: Bench) -> None:
    def away() -> None:
        bench.register.down = True
        bench.register.index += 1

    def back() -> None:
        bench.register.down = False
        bench.register.services, bench.register.index = ("db",), 1  # it counts anew

    bench.at(10, away)
    bench.at(250, back)
    pulls = bench.run(300)
    assert [services for _, services in pulls][:4] == [("web",), ("web",), ("web",), ("db",)]
    assert pulls[3][0] < 250 + 61
    assert "no answer; asked again in 0.5 s" in bench.bus.texts[0]
    assert "no answer; asked again in 60.0 s" in bench.bus.texts
    assert "fake: answers again" in bench.bus.texts
    assert bench.register.asked < 20


def test_a_register_that_is_not_there_at_first_is_waited_for(bench: Bench) -> None:
    bench.register.down = True
    bench.at(5, lambda: setattr(bench.register, "down", False))
    assert bench.run(8)[0][1] == ("web",)


def test_a_pull_that_fails_is_repeated_sooner(bench: Bench) -> None:
    bench.error = Incomplete("1 service of 1", detail="  web 3: broken")
    bench.at(3, lambda: setattr(bench, "error", None))
    times = [when for when, _ in bench.run(120)]
    assert times[:4] == [0, 0.5, 1.5, 3.5]
    assert times[4] == 103.5
    assert bench.bus.texts[0] == "1 service of 1; tried again in 0.5 s\n  web 3: broken"


@pytest.mark.parametrize("error", [UsageError("no such directory"), Interrupted(15, "SIGTERM")])
def test_what_no_later_pull_does_better_ends_it(bench: Bench, error: Exception) -> None:
    bench.error = error
    with pytest.raises(type(error)):
        bench.run(10)


def test_pauses_are_not_the_same_on_all_hosts() -> None:
    low, high = Clock(random=lambda: 0.0), Clock(random=lambda: 1.0)
    assert low.about(100) == pytest.approx(90)
    assert high.about(100) == pytest.approx(110)
    assert high.backoff(60) == pytest.approx(66)
