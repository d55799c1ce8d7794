"""Follow a register: pull when this host's services change, and every now and then for new versions.

A register that cannot be reached stops nothing: what was mapped last is pulled on, and the register is asked
again after pauses that grow. Many hosts must not do the same at the same moment: every pause is a little
shorter or longer than it was asked for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from buildstep.assets.interface import Mappings, Register, RegisterError
from buildstep.errors import BuildstepError, UsageError
from buildstep.events import Bus
from buildstep.system import space

Services = tuple[str, ...]

LONGEST_WAIT: Final = 300.0
"""Seconds of one question to the register; Consul allows twice that."""

_FIRST: Final = 0.25
_LAST: Final = 60.0
_JITTER: Final = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """When to pull, all in seconds.

    every: between two pulls while no mapping changes. quiet: how long mappings must not have changed before a
    pull, as an operator often changes several; at most `unquiet` in all. splay: a host waits for up to that
    long before it pulls what changed for all hosts.
    """

    every: float = 300.0
    quiet: float = 0.2
    unquiet: float = 2.0
    splay: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """Time, for tests another one."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random

    def about(self, seconds: float) -> float:
        """Return a time that is a little shorter or longer."""
        return seconds * (1 + _JITTER * (2 * self.random() - 1))

    def backoff(self, attempt: int) -> float:
        """Return the pause after a failure: twice as long each time, up to a minute."""
        return self.about(min(_LAST, _FIRST * 2.0 ** min(attempt, 20)))


class Watch:
    """Follows a register. services_of: what mappings give this host; pull: is called with it, and raises
    BuildstepError and OSError for what a later pull may do better."""

    def __init__(
        self,
        register: Register,
        services_of: Callable[[Mappings], Services],
        pull: Callable[[Services], None],
        options: Options,
        bus: Bus,
        clock: Clock | None = None,
    ) -> None:
        self._register = register
        self._services_of = services_of
        self._pull = pull
        self._options = options
        self._bus = bus
        self._clock = clock or Clock()
        self._mappings: Mappings | None = None
        self._services: Services | None = None
        self._due = self._clock.now()
        self._unreached = 0
        self._failed = 0

    def run(self) -> NoReturn:
        """Follow the register until a signal ends it. Raises UsageError, Interrupted."""
        while True:
            self.step()

    def step(self) -> None:
        """Wait for a change of the mappings, or until a pull is due; then pull."""
        try:
            self._mappings = self._ask()
            self._take()
        except RegisterError as error:
            self._unreached += 1
            self._mappings = None  # what comes back may count its changes anew
            pause = self._clock.backoff(self._unreached)
            self._bus.note(f"{error.message}; asked again in {pause:.1f} s", level="warning")
            self._clock.sleep(pause)
        if self._services is not None and self._clock.now() >= self._due:
            self._pull_now(self._services)

    def _ask(self) -> Mappings:
        if self._mappings is None:
            found = self._register.read()
        else:
            seconds = min(LONGEST_WAIT, max(0.0, self._due - self._clock.now()))
            found = self._register.wait(self._mappings.index, seconds)
        if self._unreached:
            self._bus.note(f"{self._register.url} answers again")
            self._unreached = 0
        return found

    def _take(self) -> None:
        """Look at what the mappings give this host; wait until they rest, if that is something else."""
        assert self._mappings is not None
        services = self._services_of(self._mappings)
        if services == self._services:
            return
        if self._services is not None:
            self._rest()
            services = self._services_of(self._mappings)
            self._clock.sleep(self._options.splay * self._clock.random())
        self._services = services
        self._due = self._clock.now()

    def _rest(self) -> None:
        assert self._mappings is not None
        end = self._clock.now() + self._options.unquiet
        while self._clock.now() < end:
            found = self._register.wait(self._mappings.index, self._options.quiet)
            if found.index == self._mappings.index:
                return
            self._mappings = found

    def _pull_now(self, services: Services) -> None:
        try:
            self._pull(services)
        except (UsageError, BrokenPipeError):  # the last: nobody reads what we print any more
            raise
        except (BuildstepError, OSError) as error:
            self._failed += 1
            pause = min(self._options.every, self._clock.backoff(self._failed))
            # A full disk, or too many open files, passes as well.
            failure = space.explain(error) or error
            told = getattr(failure, "detail", "")
            detail = f"\n{told}" if told else ""
            self._bus.note(f"{failure}; tried again in {pause:.1f} s{detail}", level="error")
            self._due = self._clock.now() + pause
        else:
            self._failed = 0
            self._due = self._clock.now() + self._clock.about(self._options.every)
