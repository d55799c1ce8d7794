"""What the event log costs a build, and what a page of a very long log costs in time and memory.

    python -m bench.report [--megabytes 200]

The recorder is held against the cheapest thing a build can do for a line of output: a command that
does nothing but print, read by `process.run`. A real build does far more for each line, so there its
share is smaller; the last figure is for the rate of lines that an apt installation really has.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from buildstep import report
from buildstep.events import BuildStarted, Bus, Output
from buildstep.report.console import JsonView
from buildstep.report.event_log import EventLog
from buildstep.system import process

LINE = "Preparing to unpack .../02714-libnginx-mod-http-echo_1.4-1_amd64.deb ... and so on and on"

APT_LINES_PER_SECOND = 160.0
"""Measured: nginx-light on Debian 12 prints about 1,300 lines in 8.2 s."""


def best(job: Callable[[], None], times: int = 5) -> float:
    """The least CPU seconds, of all our threads: what neighbours on the machine do does not show."""
    seconds = []
    for _ in range(times):
        begin = time.process_time()
        job()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def emit(bus: Bus, count: int) -> None:
    bus.current = "packages"
    for _ in range(count):
        bus.output("apt-get", LINE)


def per_event(folder: Path, count: int = 200_000) -> dict[str, float]:
    """Microseconds an event: with nobody listening, with our log, and with the plain JSON view."""
    bare = best(lambda: emit(Bus(), count))

    def logged() -> None:
        with (folder / "log").open("wb") as stream, EventLog(stream) as log:
            emit(Bus(log), count)

    def viewed() -> None:
        with (folder / "view").open("w") as stream:
            emit(Bus(JsonView(stream)), count)

    return {
        "no subscriber": bare / count * 1e6,
        "event log, added": (best(logged) - bare) / count * 1e6,
        "JsonView, added": (best(viewed) - bare) / count * 1e6,
    }


def printing(folder: Path, count: int = 100_000) -> tuple[float, float]:
    """CPU seconds of a build that only prints, without and with the log, which goes to a real file."""
    argv = ["sh", "-c", f"yes '{LINE}' | head -n {count}"]

    def plain() -> None:
        bus = Bus(lambda _event: None)
        process.run(argv, line=partial(bus.output, "sh"))

    def logged() -> None:
        with (folder / "printed").open("wb") as stream, EventLog(stream) as log:
            bus = Bus(lambda _event: None, log)
            process.run(argv, line=partial(bus.output, "sh"))

    return best(plain), best(logged)


def in_child(job: Callable[[], None]) -> tuple[float, float]:
    """Seconds of a job, and the MiB that this process's peak grew by, in a fork of its own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            begin = time.perf_counter()
            job()
            spent = time.perf_counter() - begin
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            os.write(write, json.dumps([spent, grown]).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read, "rb") as stream:
        data = stream.read()
    if status:
        raise SystemExit("the measured job failed; its traceback is above")
    spent, grown = json.loads(data)
    return float(spent), float(grown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--megabytes", type=int, default=200)
    size = parser.parse_args().megabytes * 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        costs = per_event(folder)
        for label, value in costs.items():
            print(f"{label:<42}{value:8.2f} µs an event")
        plain, logged = printing(folder)
        print(f"{'a build that only prints 100,000 lines':<42}{plain:8.2f} s CPU")
        print(f"{'the same with the event log':<42}{logged:8.2f} s CPU {(logged / plain - 1) * 100:+.1f} %")
        share = costs["event log, added"] / 1e6 * APT_LINES_PER_SECOND
        print(f"{'share of an apt installation':<42}{share * 100:8.3f} %")

        path = folder / "long.events.jsonl"

        def write() -> None:
            with path.open("wb") as stream, EventLog(stream) as log:
                bus = Bus(log)
                bus.emit(BuildStarted(build_id="b", name="long", version="1", image="none", total_steps=1))
                bus.current = "packages"
                line = len(json.dumps(Output(step="packages", tool="apt-get", text=LINE).to_json())) + 1
                for number in range(size // line):
                    bus.output("apt-get", f"{number:07} {LINE[8:]}")

        spent, grown = in_child(write)
        print(
            f"{'writing a log of':<42}{path.stat().st_size / 1e6:8.0f} MB"
            f"  {spent:6.1f} s, peak +{grown:.1f} MiB"
        )
        page = folder / "long.html"

        def render() -> None:
            with page.open("wb") as out:
                report.render("html", [path], None, out)

        report.render("badge", [path], None, (folder / "warm").open("wb"))
        spent, grown = in_child(render)
        print(f"{'its page':<42}{page.stat().st_size / 1e6:8.0f} MB  {spent:6.1f} s, peak +{grown:.1f} MiB")


if __name__ == "__main__":
    main()
