"""How near does a build of components come to the shortest time that its graph and two processors allow?

`python -m bench.components_run [--files N] [--cpu S] [--wait S] [--runs N] [--out FILE]`. Twelve components
in three levels of four, each made from one of the level before; each has 2,000 files, and a hook that needs a
second of the processor and waits another one, as for a network. No image is built: what a builder takes is
not ours. Every run begins with nothing known: it reads and hashes all files, stages every component, runs the
hooks and keeps what they made.

No schedule can be shorter than the longest chain of jobs, nor than all processor seconds shared among the
processors with the wait of the last job after them: the larger one is the bound. A run after it that has
nothing to do is measured as well.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.files_store import say, timed
from bench.machine import host
from buildstep.system.workers import cores

CHECKOUT = Path(__file__).resolve().parents[1]
LEVELS, WIDTH = 3, 4
FORMAT = 1
BAR = 1.15

HOOK = """\
#!/bin/sh
set -e
{python} -S -c 'import time
while time.process_time() < {cpu}:
    pass'
sleep {wait}
echo made > "$BUILDSTEP_GENERATED_DIR/product"
"""


def make_repository(top: Path, files: int, cpu: float, wait: float) -> None:
    """Write the components, each with its files in directories of a hundred."""
    for level in range(LEVELS):
        for place in range(WIDTH):
            folder = top / f"src/c{level}{place}"
            (folder / "build").mkdir(parents=True)
            hook = folder / "build/build-pre.sh"
            hook.write_text(HOOK.format(python=sys.executable, cpu=cpu, wait=wait))
            hook.chmod(0o755)
            if level:
                (folder / "build/component.dep").write_text(f"c{level - 1}{place}\n")
            for number in range(files):
                path = folder / f"d{number // 100:02}/f{number % 100:02}"
                path.parent.mkdir(exist_ok=True)
                path.write_text(f"{level} {place} {number}\n" * 20)


def bound(cpu: float, wait: float, processors: int) -> float:
    """Return the seconds that no schedule can be shorter than."""
    chain = LEVELS * (cpu + wait)
    shared = LEVELS * WIDTH * cpu / processors + wait
    return max(chain, shared)


def run(top: Path, state: Path) -> tuple[float, float]:
    """Build; return the seconds it took, and those of the processor, hooks included."""
    environ = {**os.environ, "PYTHONPATH": os.fspath(CHECKOUT)}
    # As where the package is installed: pip compiles it.
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    environ["PYTHONPYCACHEPREFIX"] = os.fspath(top.parent / "compiled")
    argv = [sys.executable, "-m", "buildstep", "components", "build", "--quiet",
            "--root", os.fspath(top), "--state", os.fspath(state)]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = timed(argv, environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, used


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return all that was measured."""
    top = folder / "repository"
    say(f"making {LEVELS * WIDTH} components of {options.files} files")
    make_repository(top, options.files, options.cpu, options.wait)
    least = bound(options.cpu, options.wait, cores())
    make_repository(folder / "small", 1, 0, 0)
    run(folder / "small", folder / "small-state")  # it is compiled
    runs, used, again = [], [], []
    for _ in range(options.runs):
        shutil.rmtree(folder / "state", ignore_errors=True)
        seconds, processor = run(top, folder / "state")
        runs.append(round(seconds, 3))
        used.append(round(processor - LEVELS * WIDTH * options.cpu, 3))
        again.append(round(run(top, folder / "state")[0], 3))
        say(f"{seconds:.2f} s, {seconds / least:.3f} of the bound; again {again[-1]:.2f} s")
    took = statistics.median(runs)
    return {
        "format": FORMAT,
        "host": host(folder),
        "components": LEVELS * WIDTH,
        "files": options.files,
        "cpu": options.cpu,
        "wait": options.wait,
        "bound": least,
        "seconds": took,
        "share": round(took / least, 3),
        "bar": BAR,
        "runs": runs,
        "own_processor_seconds": statistics.median(used),
        "again": statistics.median(again),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=2000, help="of each component")
    parser.add_argument("--cpu", type=float, default=1.0, help="seconds of the processor, of each hook")
    parser.add_argument("--wait", type=float, default=1.0, help="seconds that each hook waits")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the results as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="buildstep-bench-") as name:
        found = measure(options, Path(name))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(f"{found['seconds']:.2f} s, the bound is {found['bound']:.2f} s: {found['share']:.3f} (bar {BAR})")
    print(f"own processor time {found['own_processor_seconds']:.2f} s")
    print(f"a run with nothing to do {found['again']:.2f} s")
    if found["host"]["load"] > 1:
        print(f"the machine was busy (load {found['host']['load']}): the numbers say little")


if __name__ == "__main__":
    main()
