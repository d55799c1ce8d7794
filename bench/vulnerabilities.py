"""What do databases of vulnerabilities cost: to import, in seconds and memory, and to look an image up in?

`python -m bench.vulnerabilities [--scale X] [--runs N] [--keep DIR]`. The downloads are made up, of the size
of real ones: Debian's tracker (some 70 MB), a zip of OSV for PyPI and one for npm, pkg-vulnerabilities.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from buildstep.system.text import size_text

RELEASES = ("bullseye", "bookworm", "trixie", "forky", "sid")
WORDS = (
    "buffer",
    "overflow",
    "crafted",
    "remote",
    "attacker",
    "denial",
    "of",
    "service",
    "before",
    "memory",
    "issue",
)


def tracker(path: Path, scale: float) -> None:
    """Write a download of Debian's tracker: 3,700 source packages, some with thousands of problems."""
    dice = random.Random(1)
    with path.open("w") as out:
        out.write("{")
        for number in range(int(3700 * scale)):
            count = 4500 if number == 0 else min(600, int(dice.paretovariate(0.9)) + 4)
            rows = {f"CVE-20{dice.randint(10, 26)}-{number:05}{n}": _problem(dice) for n in range(count)}
            out.write(f"{',' if number else ''}{json.dumps(f'source{number}')}: {json.dumps(rows)}")
        out.write("}")


def _problem(dice: random.Random) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for release in RELEASES:
        version = f"{dice.randint(0, 9)}.{dice.randint(0, 30)}-{dice.randint(1, 5)}"
        row = {"status": "resolved", "repositories": {release: version, f"{release}-security": version}}
        row["fixed_version"] = "0" if dice.random() < 0.2 else version
        if dice.random() < 0.3:
            row = {
                "status": "open",
                "repositories": {release: version},
                "nodsa": "Minor issue",
                "nodsa_reason": "",
            }
        told[release] = row | {"urgency": "not yet assigned"}
    return {
        "description": " ".join(dice.choices(WORDS, k=35)), "scope": "remote", "debianbug": 1000000,
        "releases": told,
    }  # fmt: skip


def osv(path: Path, ecosystem: str, count: int, packages: int) -> None:
    """Write a zip of OSV with so many records."""
    dice = random.Random(2)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(count):
            events = [{"introduced": "0"}, {"fixed": f"{dice.randint(0, 9)}.{dice.randint(0, 9)}.1"}]
            kind = "SEMVER" if ecosystem == "npm" else "ECOSYSTEM"
            affected = {
                "package": {"ecosystem": ecosystem, "name": f"package-{dice.randint(0, packages)}"},
                "ranges": [{"type": kind, "events": events}],
                "versions": [f"{n}.{m}.0" for n in range(3) for m in range(9)] if ecosystem == "PyPI" else [],
            }
            record = {
                "id": f"GHSA-{number:04x}-aaaa-bbbb", "modified": "2026-11-20T10:00:00Z",
                "affected": [affected],
                "aliases": [f"CVE-2026-{number}"], "summary": " ".join(dice.choices(WORDS, k=9)),
                "details": " ".join(dice.choices(WORDS, k=200)), "schema_version": "1.7.5",
            }  # fmt: skip
            archive.writestr(f"{record['id']}.json", json.dumps(record))


def pkgsrc(path: Path, count: int) -> None:
    """Write a list of pkgsrc."""
    dice = random.Random(3)
    lines = ["#FORMAT 1.1.0"]
    for number in range(count):
        name = f"package{dice.randint(0, 4000)}"
        pattern = (
            f"{name}-[0-9]*" if dice.random() < 0.1 else f"{name}<{dice.randint(1, 20)}.{dice.randint(0, 9)}"
        )
        lines.append(f"{pattern}\tdenial-of-service\thttps://nvd.nist.gov/vuln/detail/CVE-2026-{number}")
    digest = hashlib.sha512("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    path.write_text("\n".join([*lines, f"#CHECKSUM SHA512 {digest}", ""]))


def bill(path: Path, packages: int) -> None:
    """Write a bill of materials with as many packages as the sample: 115 debs of 84 sources."""

    def source(number: int) -> str:
        return f"source{number * 84 // packages + 1}"

    rows = [
        {
            "type": "library",
            "name": f"p{n}",
            "purl": f"pkg:deb/debian/p{n}@1.{n % 30}-1?distro=debian-12&upstream={source(n)}",
        }
        for n in range(packages)
    ]  # fmt: skip
    path.write_text(json.dumps({"bomFormat": "CycloneDX", "specVersion": "1.6", "components": rows}))


def run(*arguments: str) -> tuple[float, int]:
    """Run the command; return its seconds and the most memory that it had, in bytes."""
    script = (
        "import re, sys; from buildstep import cli; status = cli.main(sys.argv[1:]);"
        "told = open('/proc/self/status').read();"  # of this program alone, as getrusage is not after a fork
        "print(re.search(r'VmHWM:\\s+(\\d+)', told)[1], file=sys.stderr); sys.exit(status)"
    )
    begin = time.perf_counter()
    argv = [sys.executable, "-c", script, "scan", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    took = time.perf_counter() - begin
    assert done.returncode in (0, 35), done.stderr
    return took, int(done.stderr.split()[-1]) * 1024


def main() -> None:
    """Measure, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the real sizes")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="where the downloads stay")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        top = given.keep or Path(scratch)
        top.mkdir(exist_ok=True)
        for line in _measured(top, given.scale, given.runs):
            print(line, flush=True)


def _measured(top: Path, scale: float, runs: int) -> Iterator[str]:
    makers: dict[str, Callable[[Path], None]] = {
        "debian.json": lambda path: tracker(path, scale),
        "pypi.zip": lambda path: osv(path, "PyPI", int(20_000 * scale), 8_000),
        "npm.zip": lambda path: osv(path, "npm", int(200_000 * scale), 150_000),
        "pkg-vulnerabilities": lambda path: pkgsrc(path, int(30_000 * scale)),
    }
    for name, make in makers.items():
        path = top / name
        if not path.exists():
            make(path)
        took, memory = run("--import", str(path), "--db", str(top / "db"))
        newest = max((top / "db").iterdir(), key=lambda file: file.stat().st_mtime)
        sizes = f"{size_text(path.stat().st_size)} to {size_text(newest.stat().st_size)}"
        yield f"import {name:20} {took:6.2f} s, {size_text(memory)} of memory, {sizes}"
    bill(top / "web.cdx.json", 115)
    rows = [
        run(str(top / "web.cdx.json"), "--db", str(top / "db"), "--fail", "none", "--json")
        for _ in range(runs)
    ]
    took = statistics.median(row[0] for row in rows)
    yield f"scan of 115 packages        {took:6.2f} s, {size_text(rows[0][1])} of memory"


if __name__ == "__main__":
    main()
