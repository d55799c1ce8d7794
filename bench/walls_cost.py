"""What the walls cost: builds of this checkout beside builds of a commit before, by turns, each a process.

`python -m bench.walls_cost --before WORKTREE [--files N] [--runs N] [--only CASE] [--out FILE]`, as root.
WORKTREE is a git worktree of the commit before; both run by this Python. Four cases: nothing changed, a tiny
cold build, a cold build with packages (a Debian base that is in the pool, packages from a port of this
machine), and a cold build of many files. Times are medians of runs in alternating order; the ratio is of the
medians. The bars: 40 ms for a build, and 3 % for the cold one of 100,000 files.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.machine import host
from bench.trees import Tree, many_files

CHECKOUT = Path(__file__).resolve().parents[1]
SECONDS_BAR = 0.040
RATIO_BAR = 1.03
FORMAT = 1
PACKAGES = tuple(f"bench-{number}" for number in range(5))
CASES = ("unchanged", "tiny", "packages", "files")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two: its checkout, the folder for its pool and outputs, and more of its environment."""

    name: str
    checkout: Path
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    def forget(self) -> None:
        """Remove all that is known of any build before."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def build(self, proto: Path, manifest: dict[str, Any]) -> float:
        """Build, and return how many seconds the process took. Raises CalledProcessError."""
        text = {"name": "bench", "version": "1", "os": "linux", "type": "other", "build": manifest}
        argv = [
            sys.executable, "-P", "-m", "buildstep", "build", "--quiet", "--manifest", json.dumps(text),
            "--output-dir", os.fspath(self.folder / "out"), "--pool", f"overlay:{self.folder}/pool",
            os.fspath(proto),
        ]  # fmt: skip
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        env = {**keep, "PYTHONPATH": os.fspath(self.checkout), "SOURCE_DATE_EPOCH": "1767225600"}
        env |= self.environ
        begin = time.monotonic()
        subprocess.run(argv, env=env, cwd=self.folder, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - begin


@dataclass(frozen=True, kw_only=True)
class Case:
    """proto and manifest of what is built; prepare: what is done before each run, and not measured."""

    proto: Path
    manifest: dict[str, Any]
    prepare: Callable[[Side], None] = Side.forget
    times: dict[str, list[float]] = field(default_factory=dict)

    def measure(self, sides: tuple[Side, Side], runs: int) -> None:
        for number in range(runs + 1):
            for side in sides if number % 2 else reversed(sides):
                self.prepare(side)
                seconds = side.build(self.proto, self.manifest)
                if number:  # the first of each warms caches
                    self.times.setdefault(side.name, []).append(seconds)

    def result(self) -> dict[str, Any]:
        medians = {name: statistics.median(values) for name, values in self.times.items()}
        return {
            "before": round(medians["before"], 4),
            "now": round(medians["now"], 4),
            "more": round(medians["now"] - medians["before"], 4),
            "ratio": round(medians["now"] / medians["before"], 4),
            "seconds": {name: [round(value, 4) for value in values] for name, values in self.times.items()},
        }


def failures(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return which bars were not met: a small build's milliseconds, the large one's share."""
    wrong = [
        f"{name}: {row['more'] * 1000:.0f} ms more than before, the bar is {SECONDS_BAR * 1000:.0f} ms"
        for name, row in found.items()
        if name != "files" and row["more"] > SECONDS_BAR
    ]
    if "files" in found and found["files"]["ratio"] > RATIO_BAR:
        wrong.append(f"files: {found['files']['ratio']:.3f} times as long as before, the bar is {RATIO_BAR}")
    return wrong


# -- what is built ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def case(name: str, top: Path, files: int) -> Iterator[Case]:
    """Make the inputs of a case; its servers live as long as the block."""
    if name == "packages":
        with _packages(top) as made:
            yield made
        return
    tree = Tree(top / f"tree-{name}", many_files(files if name == "files" else 20))
    tree.ensure()
    manifest = {"image": "scratch", "formats": ["oci"]}
    if name == "unchanged":
        made = Case(proto=tree.root, manifest=manifest, prepare=lambda side: _once(side, tree.root, manifest))
    else:
        made = Case(proto=tree.root, manifest=manifest)
    yield made


def _once(side: Side, proto: Path, manifest: dict[str, Any]) -> None:
    """Build once, so that nothing is left to do."""
    if not (side.folder / "out").exists():
        side.forget()
        side.build(proto, manifest)


@contextlib.contextmanager
def _packages(top: Path) -> Iterator[Case]:
    """A Debian base, and packages of our own that the tests' repository serves."""
    from tests.integration.repository import Repository, make_place

    place = top / "debian"
    place.mkdir()
    yard = make_place(place)
    repository = Repository(top / "repository", int((place / "port").read_text()))
    for name in PACKAGES:
        repository.put(name, "1", postinst="#!/bin/sh\nexit 0\n")
    plain = {"image": f"tar:{yard.base}", "formats": ["oci"]}

    def only_the_base(side: Side) -> None:
        side.environ["BUILDSTEP_NETWORK_ALLOW"] = f"127.0.0.1:{repository.port}"
        side.forget()
        side.build(yard.proto, plain)

    manifest = {**plain, "packages": list(PACKAGES), "order": "packages-first"}
    with repository.served():
        yield Case(proto=yard.proto, manifest=manifest, prepare=only_the_base)


# -- the command --------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.walls_cost", description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="a worktree of the commit before")
    parser.add_argument("--files", type=int, default=100_000, help="of the large build (default: 100000)")
    parser.add_argument("--runs", type=int, default=7, help="measured runs of each (default: 7)")
    parser.add_argument("--only", action="append", choices=CASES, help="a case; repeat for more")
    parser.add_argument("--out", type=Path, help="a file for the result, as JSON")
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="buildstep-bench-", dir="/var/tmp") as text:
        top = Path(text)
        sides = (
            Side(name="before", checkout=options.before.resolve(), folder=top / "before"),
            Side(name="now", checkout=CHECKOUT, folder=top / "now"),
        )
        for name in options.only or CASES:
            for side in sides:
                side.forget()
            with case(name, top, options.files) as made:
                made.measure(sides, options.runs)
            found[name] = made.result()
            row = found[name]
            say(f"{name}: {row['before']:.3f} s before, {row['now']:.3f} s now, {row['ratio']:.3f} times")
        machine = host(top)
    result = {"format": FORMAT, "files": options.files, "runs": options.runs, "cases": found, "host": machine}
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    wrong = failures(found)
    for line in wrong:
        say(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
