"""How long does it take to make a tree of many small files from a store, beside ostree and casync?

`python -m bench.files_get [--files N] [--runs N] [--peers] [--folder DIR] [--out FILE]`. The tree is that of
`bench.files_store`. Measured: a new tree, the same again with --update, one whose files are shared by hard
links with an earlier one; of the peers, a checkout that copies, one by hard links, and an extraction. By
turns, medians, each as it is at a shell; the caches of the kernel are warm.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from bench.files_store import finish, make_tree, say, timed
from bench.machine import host

CHECKOUT = Path(__file__).resolve().parents[1]


class Bench:
    """The stores, and where everything lies."""

    def __init__(self, top: Path, files: int, *, peers: bool) -> None:
        self.top = top
        self.environ = {
            **os.environ,
            "HOME": os.fspath(top / "home"),
            "XDG_DATA_HOME": os.fspath(top / "data"),
            "PYTHONPATH": os.fspath(CHECKOUT),
        }
        tree, half = top / "tree", top / "half"
        say(f"making {files} files")
        self.size = make_tree(tree, half, files)
        self.ours("put", os.fspath(tree), "--ref", "tree")
        self.ours("get", "tree", os.fspath(top / "linked"), "--hardlink")
        self.peers = [tool for tool in ("ostree", "casync") if peers and shutil.which(tool)]
        self.repo, self.index = top / "repo", top / "tree.caidx"
        if "ostree" in self.peers:
            timed(["ostree", "init", f"--repo={self.repo}", "--mode=bare-user"], self.environ)
            argv = ["ostree", "commit", f"--repo={self.repo}", "--branch=tree", f"--tree=dir={tree}"]
            timed([*argv, "--canonical-permissions"], self.environ)
        if "casync" in self.peers:
            argv = ["casync", "make", f"--store={top}/casync", os.fspath(self.index), os.fspath(tree)]
            timed(argv, self.environ)

    def ours(self, *words: str) -> float:
        """Run one of our commands; return its seconds."""
        argv = [sys.executable, "-m", "buildstep", "files", *words, "--quiet"]
        return timed([*argv, "--store", os.fspath(self.top / "store")], self.environ)

    def run(self, number: int) -> dict[str, float]:
        """Measure everything once. Each makes a directory of its own: what was just removed slows ext4."""
        out = os.fspath(self.top / f"out{number}")
        found = {
            "get": self.ours("get", "tree", f"{out}-get"),
            "get --update": self.ours("get", "tree", f"{out}-get", "--update"),
            "get --hardlink": self.ours("get", "tree", f"{out}-link", "--hardlink"),
        }
        if "ostree" in self.peers:
            argv = ["ostree", "checkout", f"--repo={self.repo}", "-U"]
            found["ostree checkout -C"] = timed([*argv, "-C", "tree", f"{out}-copy"], self.environ)
            found["ostree checkout"] = timed([*argv, "tree", f"{out}-ostree"], self.environ)
        if "casync" in self.peers:
            argv = ["casync", "extract", f"--store={self.top}/casync", os.fspath(self.index), f"{out}-casync"]
            found["casync extract"] = timed(argv, self.environ)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="also ostree and casync, once a run")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the file system to measure")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="files-get-") as name:
        facts = host(Path(name))
        bench = Bench(Path(name), options.files, peers=options.peers)
        for number in range(options.runs):
            for what, seconds in bench.run(number).items():
                rows.setdefault(what, []).append(seconds)
            told = ", ".join(f"{what} {times[-1]:.2f} s" for what, times in rows.items())
            say(f"run {number + 1}: {told}")
    finish(options, facts, bench.size, rows)


if __name__ == "__main__":
    main()
