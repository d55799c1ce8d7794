"""`python -m bench`: measure, print a table, keep JSON and a chart."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import chart, machine, results, table
from bench.engines import ENGINES
from bench.engines.ours import Ours
from bench.runner import Settings, run_workload, say
from bench.workloads import WORKLOADS

HERE = Path(__file__).parent


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller inputs and fewer runs: under 2 minutes")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a workload ({', '.join(w.name for w in WORKLOADS)}) or WORKLOAD/CASE; repeat for more",
    )
    parser.add_argument(
        "--engines", metavar="A,B", help=f"who takes part (default: all of {', '.join(ENGINES)})"
    )
    parser.add_argument(
        "--out", type=Path, default=HERE / "out", help="where results go (default: bench/out)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="also write bench/results/DATE.json, to be committed"
    )
    parser.add_argument(
        "--drop-caches",
        action="store_true",
        help="drop the page cache before every run (default: it is warm, but for one case that says so)",
    )
    parser.add_argument("--thorough", action="store_true", help="no deadline: peers run every case they have")
    parser.add_argument("--render", type=Path, metavar="JSON", help="only show kept results again")
    parser.add_argument("--checkout", type=Path, help="measure another checkout's bin/build (a git worktree)")
    parser.add_argument("--list", action="store_true", help="show the cases and leave")
    parser.add_argument("--clean", action="store_true", help="remove the inputs that are kept, and leave")
    return parser


def _stop(signum: int, _frame: object) -> None:
    raise SystemExit(128 + signum)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All that was asked for, as the JSON that is kept."""
    wanted = set(options.engines.split(",")) if options.engines else set(ENGINES)
    engines = [engine for name, engine in ENGINES.items() if name in wanted]
    if options.checkout:
        engines = [Ours(options.checkout) if isinstance(engine, Ours) else engine for engine in engines]
    if machine.load() > 1.0:
        say(f"bench: this machine is busy (load {machine.load():g}): the numbers will say little")
    settings = Settings(
        folder=folder,
        quick=options.quick,
        drop=options.drop_caches,
        only=frozenset(options.only),
        engines=frozenset(options.engines.split(",")) if options.engines else frozenset(),
        deadline=float("inf") if options.thorough else 95.0 if options.quick else 660.0,
    )
    found: dict[str, Any] = {
        "format": results.FORMAT,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "quick": options.quick,
        "page_cache": "dropped" if options.drop_caches else "warm",
        "host": machine.host(folder),
        "versions": {key: text for engine in engines for key, text in engine.versions().items()},
        "workloads": [],
    }
    for workload in WORKLOADS:
        if any(settings.wants(workload, case) for case in workload.cases):
            found["workloads"].append(run_workload(workload, engines, settings))
    found["seconds"] = round(time.monotonic() - settings.begin, 1)
    return found


def _check(options: argparse.Namespace) -> None:
    names = {w.name for w in WORKLOADS} | {f"{w.name}/{c.name}" for w in WORKLOADS for c in w.cases}
    unknown = [name for name in options.only if name not in names]
    unknown += [name for name in (options.engines or "").split(",") if name and name not in ENGINES]
    if unknown:
        raise SystemExit(f"bench: unknown: {', '.join(unknown)}; --list shows what there is")


def _write(found: dict[str, Any], folder: Path, stem: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / f"{stem}.svg").write_text(chart.render(found))
    say(f"written: {folder / stem}.json and .svg")


def main() -> int:
    options = _parser().parse_args()
    _check(options)
    if options.list:
        for workload in WORKLOADS:
            for case in workload.cases:
                bar = "" if case.bar is None else f"{case.bar:g} s"
                print(f"{workload.name + '/' + case.name:24}{bar:>8}  {case.title}")
        return 0
    if options.render:
        found = json.loads(options.render.read_text())
        sys.stdout.write(table.render(found))
        options.render.with_suffix(".svg").write_text(chart.render(found))
        return 0
    folder = machine.cache_folder()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    with machine.alone(folder):
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
        if options.clean:
            shutil.rmtree(folder)
            return 0
        try:
            found = measure(options, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    sys.stdout.write(table.render(found))
    _write(found, options.out, "latest-quick" if options.quick else "latest")
    if options.keep:
        _write(found, HERE / "results", found["date"][:10])
    failed = [
        cell
        for workload in found["workloads"]
        for case in workload.get("cases", [])
        if "left_out" in (cell := case["engines"].get("ours", {}))
    ]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
