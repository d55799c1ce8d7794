"""What it costs a build to prove its image: the sample with all of it, and without, a page changed each time.

`python -m bench.trust_cost [--runs N] [--files N]`. All of it is two bills of materials, provenance with all
details, results of checks, and a key that signs; the bar is one second more than without, exit status 1 where
the medians differ by more. --files: a tree of so many files on an empty base as well, built from nothing and
after one of them has changed; 0 for none.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

BAR = 1.0
TOP = Path(__file__).resolve().parents[1]
SAMPLE = TOP / "fixtures/sample"
NOTHING: tuple[str, ...] = ()


def built(manifest: Path, proto: Path, out: Path, *words: str, pool: str = "") -> dict[str, float]:
    """Build once; return the seconds of all, and of the step that proves the image."""
    env = {**os.environ, "PYTHONPATH": os.fspath(TOP), **({"BUILDSTEP_POOL": pool} if pool else {})}
    argv = [sys.executable, "-P", "-m", "buildstep", "build", "-m", os.fspath(manifest), "-o", os.fspath(out)]
    done = subprocess.run(
        [*argv, "--json", "-q", *words, os.fspath(proto)], env=env, check=True, stdout=subprocess.PIPE
    )
    answer = json.loads(done.stdout)
    steps = {step["name"]: step["seconds"] for step in answer["steps"]}
    return {"all": answer["seconds"], "trust": steps.get("trust", 0.0)}


def everything(top: Path) -> tuple[str, ...]:
    """Make a key; return the words that ask for everything."""
    argv = [sys.executable, "-P", "-m", "buildstep", "keygen", os.fspath(top / "release")]
    env = {**os.environ, "PYTHONPATH": os.fspath(TOP)}
    subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return ("--sbom", "--provenance", "max", "--sign-key", os.fspath(top / "release.key"))


def sample(top: Path, words: tuple[str, ...], runs: int) -> dict[str, float]:
    """Return the medians of builds of the sample, turn by turn: `without` and `with`, and of the step."""
    proto = top / "proto"
    shutil.copytree(SAMPLE / "proto", proto)
    times: dict[str, list[float]] = {"without": [], "with": [], "step": []}
    for number in range(runs + 1):
        for name, more in (("without", NOTHING), ("with", words)):
            (proto / "var/www/html/index.html").write_text(f"{name} {number} {os.getpid()}")
            taken = built(SAMPLE / "m.json", proto, top / name, *more)
            if number:  # the first may have to make the base and its layers
                times[name].append(taken["all"])
                times["step"] += [taken["trust"]] if more else []
    return {name: statistics.median(rows) for name, rows in times.items()}


def tree(top: Path, words: tuple[str, ...], count: int) -> dict[str, float]:
    """Return the seconds of a tree of many files: from nothing, and with one file changed."""
    proto, manifest = top / "many", top / "many.json"
    for number in range(count):
        path = proto / f"srv/{number // 200:04}/{number % 200:03}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(500) + b"text " * 100)
    manifest.write_text(json.dumps({"name": "many", "version": "1", "build": {"image": "scratch"}}))
    found = {}
    for name, more in (("without", NOTHING), ("with", words)):
        pool = f"dir:{top}/pool-{name}"
        found[f"{name}, from nothing"] = built(manifest, proto, top / "out", *more, pool=pool)["all"]
        (proto / "srv/0000/000").write_text(name)
        found[f"{name}, one changed"] = built(manifest, proto, top / "out", *more, pool=pool)["all"]
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--files", type=int, default=0)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        words = everything(Path(folder))
        times = sample(Path(folder), words, options.runs)
        for name, taken in times.items():
            print(f"sample, {name:8} {taken:7.3f} s")
        if options.files:
            for name, taken in tree(Path(folder), words, options.files).items():
                print(f"{options.files} files {name:24} {taken:7.3f} s")
    more = times["with"] - times["without"]
    print(f"{more:.3f} s more; the bar is {BAR} s")
    return int(more > BAR)


if __name__ == "__main__":
    sys.exit(main())
