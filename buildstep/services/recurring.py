"""What services want done again and again, as by `recurring.monitor = 5m`; and what is down is brought up.

There is no daemon: `buildstep service monitor --watch` is a program that a unit of systemd, a container or a
person runs. While it waits it holds nothing: others work with the services meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from buildstep.errors import BuildstepError, UsageError
from buildstep.services.apply import Outcome
from buildstep.services.brief import UNKNOWN, brief_of
from buildstep.services.flow import How, Services
from buildstep.services.inputs import seconds_of
from buildstep.services.life_cycle import Verb
from buildstep.services.plan import Wish
from buildstep.services.run_context import Fate, Watcher
from buildstep.services.states import RUNNING, State

VERBS: Final = {"monitor": Verb.MONITOR, "cleanup": Verb.CLEANUP}
"""What may recur."""

LONGEST: Final = 3600.0
"""Seconds after which one that does not stay up is started again, at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """Time, for tests another one."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How services are watched. every: seconds between two monitors of a service that does not say it;
    restart: bring up what is dead or unhealthy."""

    every: float = 300.0
    restart: bool = False


@dataclass
class _Trouble:
    """A service that was brought up. times: in a row; until: when it may be brought up again."""

    times: int = 0
    until: float = 0.0


@dataclass
class Watch:
    """Watches services, all or those with these names, until a signal ends it."""

    services: Services
    names: tuple[str, ...]
    watcher: Watcher
    rules: Rules
    how: How = field(default_factory=lambda: How(keep_going=True))
    clock: Clock = field(default_factory=Clock)
    due: dict[tuple[str, str], float] = field(default_factory=dict)
    troubles: dict[str, _Trouble] = field(default_factory=dict)

    def run(self) -> None:
        """Watch until a signal ends it. Raises Interrupted, UsageError."""
        while True:
            self.clock.sleep(self.step())

    def step(self) -> float:
        """Do what is due, and return the seconds until something is again."""
        try:
            spans = self.spans()
            now = self.clock.now()
            for name, verb in VERBS.items():
                keys = [key for key, rows in spans.items() if name in rows]
                late = [key for key in keys if self.due.get((key, name), now) <= now]
                if late:
                    self._do(verb, late)
                for key in late:
                    self.due[key, name] = self.clock.now() + spans[key][name]
        except (UsageError, BrokenPipeError):
            raise
        except (BuildstepError, OSError) as error:
            # A full disk, or a place that is not reached, passes.
            self.watcher.tell(f"{error}; tried again in {min(self.rules.every, 60.0):.0f} s")
            return min(self.rules.every, 60.0)
        wanted = {(key, name) for key, rows in spans.items() for name in rows}
        self.due = {row: at for row, at in self.due.items() if row in wanted}
        return max(0.1, min(self.due.values(), default=self.clock.now() + 60.0) - self.clock.now())

    def spans(self) -> Mapping[str, Mapping[str, float]]:
        """Return for each service that is watched how often what is to be done. Raises SpecError."""
        self.services.repository.reload()
        found: dict[str, dict[str, float]] = {}
        for key, service in self.services.repository.services.items():
            if self.names and key not in self.names:
                continue
            if brief_of(service).state == UNKNOWN:
                self.watcher.tell(f"{key}: its state.json cannot be read, and it is not watched")
                continue
            found[key] = {"monitor": self.rules.every}
            for document in (service.template, service.instance):
                for name in VERBS:
                    if (value := document.get(f"recurring.{name}", None)) is not None:
                        found[key][name] = seconds_of(value, f"{key}: recurring.{name}")
        return found

    def _do(self, verb: Verb, keys: Collection[str]) -> None:
        wish = Wish(verbs=(verb,), names=tuple(keys), named=False, alone=True)
        outcome = self.services.run(wish, self.watcher, self.how)
        if verb is Verb.MONITOR and self.rules.restart:
            self.bring_up(outcome)

    def bring_up(self, outcome: Outcome) -> Outcome | None:
        """Restart what a monitor found dead or unhealthy, each after pauses that grow while it does not stay
        up; returns how that ended."""
        now = self.clock.now()
        bad = [row.key for row in outcome.results if row.state in RUNNING - {State.UP}]
        for row in outcome.results:
            if row.fate is Fate.DONE and now >= self.troubles.get(row.key, _Trouble()).until:
                self.troubles.pop(row.key, None)
        wanted = [key for key in bad if self.troubles.get(key, _Trouble()).until <= now]
        if not wanted:
            return None
        for key in wanted:
            trouble = self.troubles.setdefault(key, _Trouble())
            trouble.times += 1
            pause = min(LONGEST, self.rules.every * 2.0 ** (trouble.times - 1)) if trouble.times > 1 else 0.0
            trouble.until = now + pause
            self.watcher.tell(f"{key} is brought up again")
        wish = Wish(verbs=(Verb.STOP, Verb.START), names=tuple(wanted), named=False)
        return self.services.run(wish, self.watcher, self.how)
