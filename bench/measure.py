"""Timed runs: one through `child.py`, and as many as a budget allows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.model import Command

_CHILD = Path(__file__).with_name("child.py")


class RunFailed(Exception):
    """A measured command failed; the message has the end of what it printed."""


class TooSlow(Exception):
    """A measured command was stopped at its time limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run. rss_largest: peak of the largest single process (exact); anon_total: peak of all
    processes together without file pages; pss_total: with them, what they share counted once (both
    sampled); told: what the engine tells of its build."""

    seconds: float
    user: float
    system: float
    rss_largest: int
    anon_total: int
    processes: int
    pss_total: int = 0
    told: dict[str, Any] = field(default_factory=dict)


def run_once(command: Command, *, limit: float) -> Run:
    """Run a command to its end. Raises RunFailed or TooSlow."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, open(f"{name}/log", "wb") as log:
        result = Path(name, "result.json")
        argv = [sys.executable, "-I", "-S", os.fspath(_CHILD), os.fspath(result), str(limit), *command.argv]
        child = subprocess.Popen(
            argv,
            env=dict(command.env),
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            child.wait()
        except BaseException:
            child.terminate()  # it ends what it measures, then itself
            child.wait()
            raise
        tail = Path(name, "log").read_text(errors="replace")[-2000:]
        if not result.exists():
            raise RunFailed(f"{command.argv[0]} could not be measured\n{tail}")
        value = json.loads(result.read_text())
        expired, status = value.pop("expired"), value.pop("status")
        if expired:
            raise TooSlow(f"stopped after {limit:g} s")
        if status != 0:
            raise RunFailed(f"{' '.join(command.argv)}: status {status}\n{tail}")
        return Run(**value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How often a case is run: at least `least`, at most `most` times, and no more after `seconds`."""

    least: int
    most: int
    seconds: float
    limit: float = 600.0


def repeat(once: Callable[[int], Run], budget: Budget) -> list[Run]:
    """Run as often as the budget says. once: makes one run, given its number."""
    runs: list[Run] = []
    while len(runs) < budget.least or (
        len(runs) < budget.most and sum(run.seconds for run in runs) < budget.seconds
    ):
        runs.append(once(len(runs)))
    return runs
