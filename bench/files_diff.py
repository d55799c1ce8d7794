"""What a comparison of two file lists costs: 100,000 entries each, 500 changes.

`python -m bench.files_diff [--entries N] [--changes N] [--runs N]`. The lists are in their stored form, in
memory; reading them is part of what is measured. Beside it the same lists parsed as a whole, which is what
the comparison saves. The bar is 1 s; exit status 1 where the median is over it.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from buildstep.files.compare import Comparison, Listing, compare
from buildstep.tree.entry import Entry, FileList, dumps, loads

BAR = 1.0
SEED = 20


def make_tree(count: int) -> FileList:
    """Return a tree of `count` paths: directories of nine files and a link each."""
    chosen = random.Random(SEED)
    tree: FileList = {}
    for number in range(count):
        folder = b"usr/lib/package%d" % (number // 11)
        match number % 11:
            case 0:
                made = Entry(folder, "d", 0o755, 0, 0)
            case 1:
                made = Entry(folder + b"/link", "l", 0o777, 0, 0, target=b"file2")
            case rest:
                size = int(chosen.lognormvariate(8, 2))
                digest = hashlib.sha256(b"%d" % (number - number % 3)).hexdigest()
                made = Entry(folder + b"/file%d" % rest, "f", 0o644, 0, 0, size, digest)
        made.mtime = 1_700_000_000_000_000_000 + chosen.randrange(10**15)
        tree[made.path] = made
    return tree


def change(tree: FileList, count: int) -> FileList:
    """Return the tree with so many paths changed: content, mode, gone, another name, all in turn."""
    changed = {path: replace(entry) for path, entry in tree.items()}
    files = sorted(path for path, entry in tree.items() if entry.kind == "f")
    for number, path in enumerate(random.Random(SEED).sample(files, count)):
        entry = changed[path]
        match number % 4:
            case 0:
                entry.sha256 = hashlib.sha256(path).hexdigest()
            case 1:
                entry.mode = 0o4755
            case 2:
                del changed[path]
            case 3:
                del changed[path]
                changed[path + b".new"] = replace(entry, path=path + b".new")
    return changed


def seconds(job: Callable[[], object], runs: int) -> tuple[float, float]:
    """Return the medians of how long a job takes, and of the processor's time in it: what a busy machine adds
    is only in the first."""
    taken, worked = [], []
    for _ in range(runs):
        begin, cpu = time.perf_counter(), time.process_time()
        job()
        taken.append(time.perf_counter() - begin)
        worked.append(time.process_time() - cpu)
    return statistics.median(taken), statistics.median(worked)


def measure(entries: int, changes: int, runs: int) -> dict[str, tuple[float, float]]:
    """Return the times by what was done. Raises AssertionError for a comparison that misses a change."""
    tree = make_tree(entries)
    old, new = dumps(tree), dumps(change(tree, changes))

    def diff() -> Comparison:
        return compare(Listing.read(old), Listing.read(new))

    found = diff()
    assert len(found.changes) == changes, len(found.changes)
    return {
        "compare": seconds(diff, runs),
        "with times": seconds(lambda: compare(Listing.read(old), Listing.read(new), times=True), runs),
        "parse both": seconds(lambda: (loads(old), loads(new)), runs),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=500)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args(argv)
    found = measure(options.entries, options.changes, options.runs)
    for name, (taken, worked) in found.items():
        print(f"{name:12} {taken:7.3f} s, {worked:.3f} s of the processor")
    return int(found["compare"][0] > BAR)


if __name__ == "__main__":
    sys.exit(main())
