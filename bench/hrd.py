"""How long does a file of HRD take?

`python -m bench.hrd [--entries N] [--runs N]`. A quarter of the entries each are quoted texts, lists,
questions and blocks. Measured are reading, resolving references, writing anew and formatting; medians of the
runs by the clock and by the processor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from buildstep.services.hrd import Document, parse, resolve
from buildstep.services.hrd.layout import formatted


def text_of(entries: int) -> str:
    """Return a file with so many entries."""
    rows = [
        f"param.name{n} = 'a text of {n}'\nports.{n} = {n}, {n + 1}, {n + 2}\n"
        f"ask.{n} = @ASK type:int default:{n} descr:'the port, of it'\n"
        f"process.{n} =\n    cmd:'/opt/x/bin/run',\n    args:'--name=$(param.name{n}) -v',\n"
        "    env:,\n    ports:'80;443',\n\n"
        for n in range(entries // 4)
    ]
    return "".join(rows)


def main() -> None:
    """Measure, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    text = text_of(arguments.entries)
    document = parse(text)
    jobs: dict[str, Callable[[], object]] = {
        "read": lambda: parse(text),
        "resolve references": lambda: resolve([document]),
        "write anew": lambda: str(Document.of(document.values)),
        "format": lambda: formatted(document),
    }
    print(f"{len(document)} entries, {len(text)} bytes")
    for name, job in jobs.items():
        clock, processor = [], []
        for _ in range(arguments.runs):
            begin = time.perf_counter(), time.process_time()
            job()
            clock.append(time.perf_counter() - begin[0])
            processor.append(time.process_time() - begin[1])
        medians = statistics.median(clock), statistics.median(processor)
        print(f"{name:20} {medians[0]:6.3f} s by the clock {medians[1]:6.3f} s processor")


if __name__ == "__main__":
    main()
