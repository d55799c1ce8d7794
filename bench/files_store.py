"""How long does a store take for a tree of many small files, beside ostree and casync?

`python -m bench.files_store [--files N] [--runs N] [--peers] [--out FILE]`. The tree is made from a seed:
small files of some 4 KB, of which 30 in 100 have the content of another one. Measured: put into an empty
store, put again unchanged, verify, and a gc that deletes half of the contents; of the peers, a first commit.
By turns, medians, each as it is at a shell; the caches of the kernel are warm.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.machine import host, load
from bench.trees import Content
from buildstep.files.places import state_folder
from buildstep.tree.stat_index import StatIndex

CHECKOUT = Path(__file__).resolve().parents[1]
SEED = 14
DUPLICATES = 0.3
PER_FOLDER = 200
FORMAT = 1


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make_tree(top: Path, half: Path, files: int) -> int:
    """Make the tree, and a second one with hard links to every other directory of it; return the bytes."""
    rng = random.Random(SEED)
    # Half of a file is text, which compresses, and half is noise, which does not.
    text, noise = Content(SEED).chunk("text", 0, 1 << 20), rng.randbytes(64 << 20)
    sizes: list[tuple[int, int]] = []
    total = 0
    for number in range(files):
        folder = top / f"d{number // PER_FOLDER:05}"
        if number % PER_FOLDER == 0:
            folder.mkdir(parents=True)
        if sizes and rng.random() < DUPLICATES:
            key, size = rng.choice(sizes)
        else:
            key, size = number, min(100_000, int(rng.lognormvariate(7.6, 1.1)))
            sizes.append((key, size))
        half_size = size // 2
        at, there = key * 7919 % (len(noise) - size), key * 104_729 % ((512 << 10) - half_size)
        data = b"%d\n" % key + text[there : there + half_size] + noise[at : at + half_size]
        (folder / f"f{number}").write_bytes(data)
        total += len(data)
    for folder in sorted(top.iterdir())[::2]:
        target = half / folder.name
        target.mkdir(parents=True)
        for path in folder.iterdir():
            os.link(path, target / path.name)
    return total


def timed(argv: Sequence[str], environ: dict[str, str]) -> float:
    """Run a command and return its seconds; its output is shown if it fails."""
    begin = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, env=environ, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(argv)} failed:\n{done.stdout}{done.stderr}")
    return time.monotonic() - begin


class Bench:
    """The tree, and where everything lies."""

    def __init__(self, top: Path, files: int) -> None:
        self.top = top
        self.tree, self.half = top / "tree", top / "half"
        say(f"making {files} files")
        self.size = make_tree(self.tree, self.half, files)
        home = {"HOME": os.fspath(top / "home"), "XDG_DATA_HOME": os.fspath(top / "data")}
        self.environ = {**os.environ, **home, "PYTHONPATH": os.fspath(CHECKOUT)}
        # An installed program is compiled once; some machines for tests ask Python not to keep that.
        self.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        timed([sys.executable, "-m", "compileall", "-q", os.fspath(CHECKOUT / "buildstep")], self.environ)

    def ours(self) -> dict[str, float]:
        """Measure each of our commands once, on a new store."""
        store = self.top / "store"
        shutil.rmtree(store, ignore_errors=True)
        # Nothing is known of a tree that was never at this path; root's state is not ours to remove.
        moved = self.top / f"tree{time.monotonic_ns()}"
        self.tree.rename(moved)
        self.tree = moved

        def call(*words: str) -> float:
            argv = [sys.executable, "-m", "buildstep", "files", *words, "--store", os.fspath(store)]
            return timed(argv, self.environ)

        found = {"put": call("put", os.fspath(self.tree), "--ref", "tree", "--quiet")}
        found["put again"] = call("put", os.fspath(self.tree), "--ref", "tree", "--quiet")
        found["verify"] = call("verify")
        call("put", os.fspath(self.half), "--ref", "half", "--quiet")
        call("remove", "tree")
        found["gc to half"] = call("gc", "--grace", "0")
        for tree in (self.tree, self.half):
            StatIndex(state_folder(os.environ), tree).path.unlink(missing_ok=True)
        say(f"store: {sum(path.stat().st_size for path in store.rglob('*') if path.is_file()) >> 20} MiB")
        return found

    def ostree(self) -> float:
        repo = self.top / "ostree"
        shutil.rmtree(repo, ignore_errors=True)
        timed(["ostree", "init", f"--repo={repo}", "--mode=bare-user"], self.environ)
        argv = ["ostree", "commit", f"--repo={repo}", "--branch=tree", f"--tree=dir={self.tree}"]
        return timed([*argv, "--canonical-permissions"], self.environ)

    def casync(self) -> float:
        store = self.top / "casync"
        shutil.rmtree(store, ignore_errors=True)
        argv = [
            "casync",
            "make",
            f"--store={store}",
            os.fspath(self.top / "tree.caidx"),
            os.fspath(self.tree),
        ]
        return timed(argv, self.environ)


def finish(
    options: argparse.Namespace, facts: dict[str, object], size: int, rows: dict[str, list[float]]
) -> None:
    """Show the medians, and write all that was measured to the file of --out. size: of the tree, in bytes."""
    found: dict[str, Any] = {
        "format": FORMAT,
        "host": facts,
        "load": load(),
        "files": options.files,
        "bytes": size,
        "seconds": rows,
        "median": {what: round(statistics.median(times), 2) for what, times in rows.items()},
    }
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    say(json.dumps(found["median"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="also ostree and casync, once a run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp"), prefix="files-store-") as name:
        top = Path(name)
        facts = host(top)
        bench = Bench(top, options.files)
        peers: dict[str, Callable[[], float]] = {}
        if options.peers:
            peers = {tool: getattr(bench, tool) for tool in ("ostree", "casync") if shutil.which(tool)}
        for number in range(options.runs):
            for what, seconds in bench.ours().items():
                rows.setdefault(what, []).append(seconds)
            for tool, call in peers.items():
                rows.setdefault(tool, []).append(call())
            say(
                f"run {number + 1}: " + ", ".join(f"{what} {times[-1]:.2f} s" for what, times in rows.items())
            )
        size = bench.size
    finish(options, facts, size, rows)


if __name__ == "__main__":
    main()
