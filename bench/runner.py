"""Runs the cases: each workload, each engine with its own state, each case as often as its budget says."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import machine, results
from bench.checkouts import check_out
from bench.measure import Budget, Run, RunFailed, TooSlow, repeat, run_once
from bench.model import Case, Engine, Input, Workload
from bench.repository import Repository


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """quick: smaller inputs, fewer runs. drop: drop the page cache before every run. deadline: seconds
    after which peers sit out what is left, so that the whole keeps its promise."""

    folder: Path
    quick: bool = False
    drop: bool = False
    only: frozenset[str] = frozenset()
    engines: frozenset[str] = frozenset()
    deadline: float = 660.0
    begin: float = field(default_factory=time.monotonic)

    def wants(self, workload: Workload, case: Case) -> bool:
        return not self.only or bool(self.only & {workload.name, f"{workload.name}/{case.name}"})

    def budget(self, case: Case, engine: Engine) -> Budget:
        """Ours is run more often than the peers: its medians are what the bars are held against."""
        if engine.name == "ours":
            least, most, seconds = (1, 3, 1.5) if self.quick else (3, 7, 12.0)
            return Budget(least=1 if case.once else least, most=1 if case.once else most, seconds=seconds)
        most, seconds, limit = (2, 0.5, 60.0) if self.quick else (3, 8.0, 240.0)
        if engine.name not in self.engines:
            # A peer that starts just before the deadline does not break the promise either.
            limit = min(limit, max(self.deadline + 60.0 - self.elapsed(), 10.0))
        return Budget(least=1, most=1 if case.once else most, seconds=seconds, limit=limit)

    def absent(self, workload: Workload, case: Case, engine: Engine) -> str:
        """Why an engine sits a case out; empty when it is to run it."""
        if reason := engine.missing() or case.skip.get(engine.name, "") or engine.lacks(case):
            return reason
        if engine.name == "ours" or engine.name in self.engines:
            return ""
        if self.quick and engine.name in workload.slow:
            return "not in --quick"
        if engine.name in case.long and self.deadline != float("inf"):
            return "takes too long: ask for it with --thorough, or by name with --engines"
        return "out of time: ask for it with --only and --engines" if self.late() else ""

    def elapsed(self) -> float:
        return time.monotonic() - self.begin

    def late(self) -> bool:
        return self.elapsed() > self.deadline


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_workload(workload: Workload, engines: Sequence[Engine], settings: Settings) -> dict[str, Any]:
    """Every case of a workload by every engine that takes part, as the part of the JSON that tells it."""
    about = {
        "name": workload.name,
        "title": workload.title,
        "full_size": workload.full_size or not settings.quick,
    }
    cases = [case for case in workload.cases if settings.wants(workload, case)]
    need = workload.space // (10 if settings.quick else 1)
    if machine.free_space(settings.folder) < need:
        return {**about, "left_out": f"needs {need / 1e9:.0f} GB of free disk in {settings.folder}"}
    say(f"{workload.name}: preparing")
    try:
        source = workload.prepare(settings.folder / "inputs", settings.quick)
    except (OSError, subprocess.CalledProcessError) as error:
        return {**about, "left_out": f"its input could not be made: {error}"}
    cells: dict[str, dict[str, Any]] = {case.name: {} for case in cases}
    for engine in engines:
        if engine.name in workload.engines:
            block = _Block(engine, source, settings)
            try:
                for case in cases:
                    cells[case.name][engine.name] = block.case(workload, case)
            finally:
                block.close()
    return {
        **about,
        "facts": dict(source.facts),
        "cases": [
            {
                "name": case.name,
                "title": case.title,
                "bar": case.bar if about["full_size"] else None,
                "engines": cells[case.name],
            }
            for case in cases
        ],
    }


class _Block:
    """One engine at one workload: its state lasts over the cases, each starting from where the last ended."""

    def __init__(self, engine: Engine, source: Input, settings: Settings) -> None:
        self._engine = engine
        self._source = source
        self._settings = settings
        self._folder = settings.folder / "work" / f"{source.name}-{engine.name}"
        self._beside = settings.folder / "work" / f"{source.name}-{engine.name}-beside"
        self._warmth: tuple[object, ...] | None = None
        self._read = False
        self._changes = 0
        self._packages = 0
        self._filled = ""
        self._repository: Repository | None = None
        self._broken = ""

    def case(self, workload: Workload, case: Case) -> dict[str, Any]:
        engine, settings = self._engine, self._settings
        if reason := settings.absent(workload, case, engine) or self._broken:
            return results.left_out(reason)
        budget = settings.budget(case, engine)
        if case.packages in ("one more", "one less"):
            there = self._source.extras if case.packages == "one more" else self._source.packages
            budget = replace(budget, most=min(budget.most, len(there)))
        self._packages = 0
        say(f"{workload.name}: {case.title}: {engine.name}")
        try:
            if not self._read and not case.dropped:
                machine.read_all(self._source.tree.root)
            self._read = not case.dropped
            if reason := self._warm(case, budget):
                return results.left_out(reason)
            return results.summary(repeat(lambda _: self._once(case, budget), budget))
        except TooSlow as slow:
            self._broken = f"its {case.name} case was {slow}"
            return results.left_out(str(slow))
        except (RunFailed, subprocess.CalledProcessError) as error:
            say(f"  failed: {error}")
            self._broken = f"its {case.name} case failed"
            return results.left_out("failed: " + str(error).splitlines()[0])

    def _warm(self, case: Case, budget: Budget) -> str:
        """Have the state that a case starts from. Returns why there is none to be had."""
        if case.shared and not self._filled:
            self._forget(case)
            source = replace(self._input(case), fills=True)
            run_once(self._engine.command(source, self._folder), limit=budget.limit)
            self._filled = _content(self._beside / "shared")
            self._warmth = None
        if case.shared and self._filled == _NOTHING:
            return "this checkout keeps nothing of it in a shared store"
        if not case.cold and self._warmth != case.warmth:
            if self._warmth is None:
                self._forget(case)
            warm = replace(case, packages="bumped" if case.packages == "bumped" else "")
            run_once(self._engine.command(self._input(warm), self._folder), limit=budget.limit)
            self._warmth = case.warmth
        return ""

    def _input(self, case: Case) -> Input:
        """What the engine is given for a run of a case, made anew where each run has its own."""
        source = self._source
        if case.checkout:
            place = check_out(source.tree, case.checkout, self._beside)
            source = replace(source, place=place)
        if case.packages == "one more":
            source = replace(source, packages=(*source.packages, source.extras[self._packages]))
        elif case.packages == "one less":
            kept = tuple(name for name in source.packages if name != source.packages[-1 - self._packages])
            source = replace(source, packages=kept)
        elif case.packages == "bumped":
            if self._repository is None:
                self._repository = Repository(self._beside / "packages")
            name = self._repository.publish(self._changes)
            source = replace(source, packages=(*source.packages, name), repository=self._repository.url)
        if case.shared:
            source = replace(source, shared=f"dir:{self._beside / 'shared'}", image=case.shared)
        return replace(source, formats=case.formats, program=case.program)

    def _once(self, case: Case, budget: Budget) -> Run:
        if case.cold:
            self._forget(case)
        self._changes += 1
        if case.change is not None:
            case.change(self._source.tree, self._changes)
        source = self._input(case)
        if case.packages:
            self._packages += 1
        if case.fresh:
            self._engine.empty(self._folder)
        command = self._engine.command(source, self._folder)
        machine.settle(drop=case.dropped or self._settings.drop)
        run = run_once(command, limit=budget.limit)
        self._warmth = case.warmth
        say(f"  {run.seconds:.2f} s")
        return replace(run, told=self._engine.told(source, self._folder))

    def _forget(self, case: Case) -> None:
        self._engine.forget(replace(self._source, image=case.shared), self._folder)

    def close(self) -> None:
        """Put the input back and remove all that the engine kept."""
        self._source.tree.restore()
        if self._repository is not None:
            self._repository.close()
        for folder in (self._folder, self._beside):
            shutil.rmtree(folder, ignore_errors=True)


_NOTHING = "nothing"


def _content(folder: Path) -> str:
    return "something" if any(path.is_file() for path in folder.rglob("*")) else _NOTHING
