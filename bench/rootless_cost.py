"""What a build costs a user beside what it costs root: one file changed, by turns, each a process.

`python -m bench.rootless_cost [--files N] [--runs N] [--out FILE]`, as root. A user with subordinate ids is
made for the time. Two cases: a base image of many files and a small proto directory, of which one file is
another one each time; and a proto directory of many files on an empty base, of which one is. Three sides:
root in an overlay pool, the user in the pool that the rule finds, and the user in a pool of copies. Times are
medians of runs in alternating order; the ratio is of the user's median to root's. The bar: 1.3.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import secrets
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.machine import host, settle
from bench.trees import Tree, many_files

CHECKOUT = Path(__file__).resolve().parents[1]
BAR = 1.3
FEW = 2
"""Runs of the pool of copies: each takes as long as the base is large."""
FORMAT = 1
CASES = ("base", "proto")
PYTHON = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
"""The system's: a user may not start one that lies in root's home. All sides use it."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One who builds. pool: the URI of a pool to name, empty for that of the rule."""

    name: str
    user: pwd.struct_passwd
    folder: Path
    pool: str = ""
    times: list[float] = field(default_factory=list)

    def build(self, image: str, proto: Path) -> float:
        """Build, and return how many seconds the process took. Raises CalledProcessError."""
        manifest = {"name": "bench", "version": "1", "build": {"image": image, "formats": ["oci"]}}
        argv = [PYTHON, "-P", "-m", "buildstep", "build", "--quiet", "--manifest", json.dumps(manifest)]
        argv += [
            "--output-dir",
            os.fspath(self.folder / "out"),
            *(["--pool", self.pool] if self.pool else []),
        ]
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": os.fspath(self.folder),
            "SOURCE_DATE_EPOCH": "1767225600",
            "PYTHONPATH": f"{CHECKOUT}:{sysconfig.get_paths()['purelib']}",
        }  # fmt: skip
        begin = time.monotonic()
        subprocess.run(
            [*argv, os.fspath(proto)], env=env, cwd=self.folder, check=True, stdout=subprocess.DEVNULL,
            user=self.user.pw_uid, group=self.user.pw_gid, extra_groups=[],
        )  # fmt: skip
        return time.monotonic() - begin


@contextlib.contextmanager
def somebody() -> Iterator[pwd.struct_passwd]:
    """A user with a range of ids, for the length of a block."""
    name = f"bench{secrets.token_hex(3)}"
    subprocess.run(["useradd", "--no-create-home", name], check=True, capture_output=True)
    try:
        for flag in ("--add-subuids", "--add-subgids"):
            ids = ["usermod", flag, "3000000-3065535", name]
            subprocess.run(ids, check=True, capture_output=True)
        yield pwd.getpwnam(name)
    finally:
        subprocess.run(["userdel", name], check=False, capture_output=True)


def inputs(case: str, top: Path, files: int) -> tuple[str, Path]:
    """Make what is built: the base image's name, and the proto directory."""
    many, few = (
        Tree(top / f"{case}-{name}", many_files(count)) for name, count in (("many", files), ("few", 20))
    )
    many.ensure()
    few.ensure()
    if case == "proto":
        return "scratch", many.root
    archive = top / "base.tar"
    subprocess.run(["tar", "-cf", archive, "--owner=0", "--group=0", "-C", many.root, "."], check=True)
    return f"tar:{archive}", few.root


def measure(sides: list[Side], image: str, proto: Path, runs: int) -> dict[str, Any]:
    """Build by turns, each time with another content of one file, which all sides build."""
    changing = proto / "changing"
    for side in sides:
        side.times.clear()
        side.build(image, proto)
    for number in range(runs + 1):
        changing.write_text(f"{number}\n")
        for side in sides if number % 2 else reversed(sides):
            if side.name == "copies" and number > FEW:
                continue
            settle()
            seconds = side.build(image, proto)
            if number:  # the first of each warms caches
                side.times.append(seconds)
    medians = {side.name: round(statistics.median(side.times), 4) for side in sides}
    return {
        **medians,
        "ratio": round(medians["user"] / medians["root"], 3),
        "seconds": {side.name: [round(value, 4) for value in side.times] for side in sides},
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.rootless_cost", description=__doc__)
    parser.add_argument("--files", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=7, help="measured runs of each (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a file for the result, as JSON")
    options = parser.parse_args()
    cases: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="buildstep-bench-", dir="/var/tmp") as text, somebody() as user:
        top = Path(text)
        top.chmod(0o755)
        for case in CASES:
            image, proto = inputs(case, top, options.files)
            sides = []
            for name, who, pool in (
                ("root", pwd.getpwuid(0), "overlay"),
                ("user", user, ""),
                ("copies", user, "dir"),
            ):
                folder = top / f"{case}-of-{name}"
                folder.mkdir()
                os.chown(folder, who.pw_uid, who.pw_gid)
                sides.append(Side(name=name, user=who, folder=folder, pool=pool and f"{pool}:{folder}/pool"))
            row = cases[case] = measure(sides, image, proto, options.runs)
            told = ", ".join(f"{side.name} {row[side.name]:.3f} s" for side in sides)
            print(f"{case}: {told}; the user {row['ratio']:.2f} times root", file=sys.stderr, flush=True)
        machine = host(top)
    result = {"format": FORMAT, "files": options.files, "runs": options.runs, "cases": cases, "host": machine}
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 1 if any(row["ratio"] > BAR for row in cases.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
