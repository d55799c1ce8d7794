"""How a cold build of a large tree scales with processors: measured on one and two, and reckoned for more.

`python -m bench.scaling [--quick] [--runs N] [--out FILE]`. A build whose layers are made by workers notes of
each layer how many seconds of a processor it took. All else of the build's processor time is taken as serial,
although a part of it, copying and hashing the archive, goes on beside the layers: so the reckoned times are
upper bounds. With n workers a build takes the serial share, and the layers in their order, each by the first
worker that is free. Runs are on so many processors by `taskset`, by turns.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.engines.ours import Ours
from bench.machine import cache_folder, host, read_all, settle
from bench.measure import Run, run_once
from bench.model import Input
from bench.workloads import WORKLOADS

FORMAT = 1
RECKONED = (1, 2, 4, 8, 12, 16)


def makespan(costs: Sequence[float], workers: int) -> float:
    """Return when the last of these tasks is done, each given in order to the first worker that is free."""
    free = [0.0] * workers
    for cost in costs:
        heapq.heapreplace(free, free[0] + cost)
    return max(free)


def layer_costs(folder: Path) -> list[float]:
    """Return the processor seconds of each layer of the build in this folder, in the order of the archive."""
    (state,) = folder.glob("pool/state/blobs")
    rows = [json.loads(path.read_text()) for path in state.glob("*.json")]
    values = [row.get("value", row) for row in rows]
    return [float(row["seconds"]) for row in sorted(values, key=lambda row: str(row["comment"]))]


def measured(source: Input, folder: Path, cores: int) -> tuple[Run, list[float]]:
    """Build with nothing kept, on so many processors."""
    engine = Ours()
    engine.forget(source, folder)
    command = engine.command(source, folder)
    settle()
    argv = ("taskset", "-c", ",".join(map(str, range(cores))), *command.argv)
    run = run_once(replace(command, argv=argv), limit=600)
    return run, layer_costs(folder)


def reckoned(run: Run, costs: Sequence[float]) -> dict[str, Any]:
    """Return the shares of a run, and what builds would take with more workers."""
    processor = run.user + run.system
    serial = processor - sum(costs)
    return {
        "processor": round(processor, 3),
        "layers": [round(cost, 3) for cost in costs],
        "serial": round(serial, 3),
        "serial_share": round(serial / processor, 3),
        "seconds": {str(count): round(serial + makespan(costs, count), 3) for count in RECKONED},
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="10,000 files, which are too few for many workers"
    )
    parser.add_argument("--runs", type=int, default=3, help="measured runs of each (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a file for the result, as JSON")
    options = parser.parse_args()
    folder = cache_folder()
    (workload,) = [row for row in WORKLOADS if row.name == "files"]
    source = workload.prepare(folder / "inputs", options.quick)
    read_all(source.tree.root)
    here = len(os.sched_getaffinity(0))
    rows: dict[int, list[tuple[Run, list[float]]]] = {count: [] for count in (1, 2) if count <= here}
    for number in range(options.runs):
        for count, runs in rows.items():
            runs.append(measured(source, folder / "work" / "scaling", count))
            run = runs[-1][0]
            text = (
                f"{run.seconds:.2f} s, {run.user + run.system:.2f} s of processors, {run.pss_total >> 20} MiB"
            )
            print(f"run {number + 1}, {count} processors: {text}", file=sys.stderr, flush=True)
    found = {
        str(count): {
            "seconds": round(statistics.median(run.seconds for run, _ in runs), 3),
            "processor": round(statistics.median(run.user + run.system for run, _ in runs), 3),
            "memory": max(run.pss_total for run, _ in runs),
            "runs": [round(run.seconds, 3) for run, _ in runs],
        }
        for count, runs in rows.items()
    }
    # The run that was disturbed least.
    best = min(rows[max(rows)], key=lambda row: row[0].user + row[0].system)
    result = {"format": FORMAT, "measured": found, "reckoned": reckoned(*best), "host": host(folder)}
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
