"""Does a clone of a large base cost more than one of a small base? Each pool clones both, by turns.

`python -m bench.clone_cost [--pools zfs,btrfs,overlay,dir] [--mib SMALL,LARGE] [--runs N] [--out FILE]`, as
root. zfs is measured in the guest of the tests: it is emulated, so its seconds say nothing, its ratio does.
btrfs has a loop file; overlay and dir are on the disk that holds /var/tmp.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.machine import host, load

CHECKOUT = Path(__file__).resolve().parents[1]
POOLS = ("zfs", "btrfs", "overlay", "dir")
FILE_SIZE = 64 << 10
"""Of each file in a base, so that the number of files grows with the size as well."""
FEW = 3
"""Runs of a pool whose clones are copies: each takes as long as the base is large."""
FORMAT = 1


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# -- what is measured ---------------------------------------------------------------------------------------


def fill(root: Path, mib: int) -> int:
    """A base of so many MiB that do not compress; returns how many files it is."""
    data = random.Random(mib).randbytes(FILE_SIZE)
    count = (mib << 20) // FILE_SIZE
    for number in range(count):
        folder = root / f"d{number // 100}"
        if number % 100 == 0:
            folder.mkdir()
        # Unlike each other, so that nothing can keep them once for all.
        (folder / f"f{number}").write_bytes(number.to_bytes(8, "big") + data[8:])
    return count


def measure(uri: str, sizes: Sequence[int], runs: int) -> dict[str, Any]:
    """Clone and destroy in a pool at `uri`, by turns for each size (MiB)."""
    from buildstep import pool
    from buildstep.pool.interface import Kind

    backend = pool.open_pool(uri)
    runs = runs if backend.cheap_clone else min(runs, FEW)
    images, files = {}, {}
    for mib in sizes:
        dataset = backend.create(f"base-{mib}")
        files[mib] = fill(dataset.path, mib)
        images[mib] = str(uuid.UUID(int=mib))
        backend.snapshot(dataset, Kind.IMAGE, images[mib])
        say(f"{backend.scheme}: a base of {mib} MiB in {files[mib]} files")
    os.sync()
    times: dict[int, dict[str, list[float]]] = {mib: {"clone": [], "destroy": []} for mib in sizes}
    for number in range(runs + 1):
        for mib in sizes if number % 2 else reversed(sizes):
            begin = time.monotonic()
            backend.clone(Kind.IMAGE, images[mib], f"c{number}-{mib}")
            cloned = time.monotonic()
            backend.destroy(Kind.BUILD, f"c{number}-{mib}")
            ended = time.monotonic()
            if number:  # the first of each warms caches, and is told from the rest in no other way
                times[mib]["clone"].append(cloned - begin)
                times[mib]["destroy"].append(ended - cloned)
    for mib in sizes:
        backend.destroy(Kind.IMAGE, images[mib])
    return {
        "runs": runs,
        "bases": [
            {
                "mib": mib,
                "files": files[mib],
                **{act: _summary(values) for act, values in times[mib].items()},
            }
            for mib in sizes
        ],
    }


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": round(statistics.median(values), 5),
        "least": round(min(values), 5),
        "most": round(max(values), 5),
        "seconds": [round(value, 5) for value in values],
    }


def ratio(found: dict[str, Any], act: str = "clone") -> float:
    """How many times as long the largest base takes as the smallest."""
    rows = sorted(found["bases"], key=lambda row: row["mib"])
    return float(rows[-1][act]["median"] / rows[0][act]["median"])


# -- where --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def place(scheme: str, folder: Path, sizes: Sequence[int]) -> Iterator[str]:
    """A pool of this kind on this machine, for the length of a block."""
    if scheme != "btrfs":
        yield f"{scheme}:{folder}/pool"
        return
    disk, where = folder / "disk.img", folder / "disk"
    with disk.open("wb") as file:
        file.truncate((sum(sizes) * 2 + 1024) << 20)
    where.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", os.fspath(disk)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", os.fspath(disk), os.fspath(where)], check=True)
    try:
        yield f"btrfs:{where}/pool"
    finally:
        subprocess.run(["umount", "-R", os.fspath(where)], check=True)


def here(scheme: str, sizes: Sequence[int], runs: int) -> dict[str, Any]:
    """On this machine, in mount namespaces as a build has them, so that nothing stays mounted."""
    with tempfile.TemporaryDirectory(prefix="buildstep-bench-", dir="/var/tmp") as name:
        with place(scheme, Path(name), sizes) as uri:
            code = "import sys; from bench.clone_cost import inside; inside(*sys.argv[1:])"
            argv = ["unshare", "--mount", sys.executable, "-c", code, uri, *map(str, (runs, *sizes))]
            done = subprocess.run(argv, cwd=CHECKOUT, stdout=subprocess.PIPE, check=True)
        return {**json.loads(done.stdout), "host": host(Path(name))}


def in_guest(sizes: Sequence[int], runs: int) -> dict[str, Any]:
    """In the tests' guest, on a pool of its own."""
    code = "import sys; from bench.clone_cost import inside; inside(*sys.argv[1:])"
    argv = [
        sys.executable, "tests/guest/guest.py", "run", "--timeout", "1800", "--",
        "python3", "-c", code, "zfs:zones/agent/data", *map(str, (runs, *sizes)),
    ]  # fmt: skip
    done = subprocess.run(argv, cwd=CHECKOUT, stdout=subprocess.PIPE, check=True)
    return {**json.loads(done.stdout), "host": {**host(CHECKOUT), "emulated": True}}


def inside(uri: str, runs: str, *sizes: str) -> None:
    """What the processes that measure run: prints the figures."""
    print(json.dumps(measure(uri, [int(mib) for mib in sizes], int(runs))))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pools", default=",".join(POOLS), help="default: %(default)s")
    parser.add_argument("--mib", default="10,1024", help="sizes of the bases (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=CHECKOUT / "bench/out/clone_cost.json")
    options = parser.parse_args()
    sizes = sorted(int(word) for word in options.mib.split(","))
    pools = options.pools.split(",")
    if unknown := sorted(set(pools) - set(POOLS)):
        parser.error(f"no pool is called {', '.join(unknown)}; there are {', '.join(POOLS)}")
    found: dict[str, Any] = {"format": FORMAT, "sizes": sizes, "load": load(), "pools": {}}
    print(f"{'pool':8} {'base':>9} {'files':>7} {'clone':>11} {'destroy':>11}   ratio of the clones' medians")
    for scheme in pools:
        result = in_guest(sizes, options.runs) if scheme == "zfs" else here(scheme, sizes, options.runs)
        found["pools"][scheme] = {**result, "ratio": round(ratio(result), 3)}
        for row in result["bases"]:
            told = f"{ratio(result):.2f}" if row is result["bases"][-1] else ""
            clone, destroy = (row[act]["median"] * 1000 for act in ("clone", "destroy"))
            name = f"{row['mib']} MiB"
            print(f"{scheme:8} {name:>9} {row['files']:7} {clone:8.1f} ms {destroy:8.1f} ms   {told}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
