"""How long does a plan of a large graph take?

`python -m bench.components_plan [--components N] [--edges N] [--runs N] [--out FILE]`. Components with an
image each are made from a seed: one needs some of the few dozen components before it, by FROM and
COPY --from. Measured is `buildstep components plan --json` at a shell, nothing built before, and again when
all was; medians, with the processor time of the command. The caches of the kernel are warm.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.machine import host, load
from buildstep.cli.components_options import Work
from buildstep.components.inputs import key_of
from buildstep.components.interface import Built
from buildstep.components.records import Records, state_directory

SEED = 16
FORMAT = 1


class Taken(NamedTuple):
    """What a command took, in seconds: by the clock, and of processors."""

    seconds: float
    processor: float


def make_components(root: Path, count: int, edges: int) -> None:
    """Write `count` components with `edges` edges between them, the same ones each time."""
    rng = random.Random(SEED)
    window = max(2, 12 * edges // count)
    left = edges
    for number in range(count):
        before = range(max(0, number - window), number)
        share = min(len(before), -(-left // (count - number)))
        left -= share
        needs = [f"c{other:05}" for other in sorted(rng.sample(before, share))]
        lines = [f"FROM {needs[0] if needs else 'debian:12'}"]
        lines += [f"COPY --from={name} /{name} /{name}" for name in needs[1:]]
        folder = root / f"src/c{number:05}"
        (folder / "build").mkdir(parents=True)
        (folder / f"build/c{number:05}.common.dockerfile").write_text(
            "\n".join([*lines, "COPY app /app", ""])
        )
        (folder / "app").write_text(str(number))


def plan(root: Path, environ: dict[str, str]) -> tuple[Taken, dict[str, int], int]:
    """Plan once; return what it took, the counts of the plan, and its edges."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    words = [sys.executable, "-m", "buildstep", "components", "plan", "--json", "--root", os.fspath(root)]
    out = subprocess.run(words, check=True, capture_output=True, env=environ).stdout
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    value = json.loads(out)
    return Taken(seconds, processor), value["counts"], len(value["edges"])


def builder_of(folder: Path, images: Sequence[str]) -> Path:
    """Write a stand-in for buildah that has these images, and return the directory that it is in."""
    folder.mkdir(exist_ok=True)
    (folder / "images").write_text("".join(f"{image}\n" for image in images))
    program = folder / "buildah"
    program.write_text('#!/bin/sh\n[ "$1" = images ] && exec cat "${0%/*}/images"\nexit 1\n')
    program.chmod(0o755)
    return folder


def build_all(root: Path, environ: dict[str, str]) -> list[str]:
    """Write down that every job was built; return the ids of the images."""
    options = {"config": None, "mode": "", "state": state_directory(root, environ), "builder": ""}
    work = Work(root=root, options=options)
    records, outputs = Records(state_directory(root, environ)), dict[str, str]()
    for name in work.graph.order():
        inputs = work.opened.inputs.all(name, outputs)
        outputs[name] = key = key_of(inputs)
        records.add(Built(job=name, key=key, output=key, inputs=inputs, seconds=1.0, ended=1.0))
    return list(outputs.values())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--components", type=int, default=2000)
    parser.add_argument("--edges", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    rows: dict[str, list[Taken]] = {}
    with tempfile.TemporaryDirectory() as name:
        facts, root = host(Path(name)), Path(name, "repository")
        path = f"{builder_of(Path(name, 'bin'), ())}:{os.environ['PATH']}"
        environ = {**os.environ, "PATH": path, "BUILDSTEP_COMPONENTS_STATE": os.path.join(name, "state")}
        make_components(root, options.components, options.edges)
        for what in ("nothing built", "all built"):
            for _ in range(options.runs):
                taken, counts, edges = plan(root, environ)
                assert counts["run" if what == "nothing built" else "reuse"] == options.components
                assert edges == options.edges
                rows.setdefault(what, []).append(taken)
            if what == "nothing built":
                builder_of(Path(name, "bin"), build_all(root, environ))
    found = {
        "format": FORMAT,
        "host": facts,
        "load": load(),
        "components": options.components,
        "edges": options.edges,
        "seconds": {what: [round(one.seconds, 3) for one in taken] for what, taken in rows.items()},
        "processor": {what: [round(one.processor, 3) for one in taken] for what, taken in rows.items()},
        "median": {
            what: round(statistics.median(one.seconds for one in taken), 3) for what, taken in rows.items()
        },
        "median_processor": {
            what: round(statistics.median(one.processor for one in taken), 3) for what, taken in rows.items()
        },
    }
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps({key: found[key] for key in ("median", "median_processor")}))


if __name__ == "__main__":
    main()
