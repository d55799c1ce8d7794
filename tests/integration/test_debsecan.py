"""Debian's own debsecan finds in its own lists what we find in them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import zlib
from pathlib import Path

from click.testing import CliRunner

from buildstep import cli
from tests.servers import judges

VERSIONS = [
    "1.0-1", "1.0-1+deb12u1", "1.0-1+deb12u2", "1.0~rc1-1", "1.1-1", "1:0.9-1", "1.0.1-1", "2.0-1~bpo12+1", "2.0-1",
    "1.0+dfsg-1", "1.0-1+b1",
]  # fmt: skip
SOURCES = [f"src{number}" for number in range(60)]
MANY = 900


def feed(dice: random.Random) -> bytes:
    """A list of debsecan, made up: problems of these sources in all ways that it can tell of them."""
    problems, rows = [], []
    for number in range(MANY):
        problems.append(f"CVE-2026-{10000 + number},,Problem {number}, described")
        others = " ".join(dice.sample(VERSIONS, dice.randint(0, 3)))
        flags = f"S{dice.choice(' LMH')}{dice.choice('?R ')}{dice.choice('F ')}"
        rows.append(f"{dice.choice(SOURCES)},{number},{flags},{dice.choice([*VERSIONS, '', ''])},{others}")
    binaries = [f"{name},{name}-bin lib{name}" for name in SOURCES]
    return "\n".join(["VERSION 1", *problems, "", *rows, "", *binaries, ""]).encode()


def installed(dice: random.Random) -> tuple[str, list[dict[str, str]]]:
    """dpkg's database, and the same as components of CycloneDX; some packages were built again (+b1)."""
    status, components = [], []
    for name in SOURCES:
        version = dice.choice(VERSIONS)
        for binary, again in ((f"{name}-bin", ""), (f"lib{name}", "+b1")):
            source = f"{name} ({version})" if again else name
            status.append(
                f"Package: {binary}\nStatus: install ok installed\nMaintainer: x <x@example.org>\nArchitecture: amd64\n"
                f"Source: {source}\nVersion: {version}{again}\nDescription: x\n"
            )
            purl = f"pkg:deb/debian/{binary}@{version}{again}?distro=debian-12&upstream={name}@{version}"
            components.append({"type": "library", "name": binary, "purl": purl.replace("+", "%2B")})
    return "\n".join(status), components


def test_debsecan_finds_the_same(tmp_path: Path) -> None:
    path, program = judges.debsecan()
    dice = random.Random(11)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/bookworm").write_bytes(zlib.compress(feed(dice)))
    status, components = installed(dice)
    (tmp_path / "status").write_text(status)
    (tmp_path / "web.cdx.json").write_text(json.dumps({"bomFormat": "CycloneDX", "components": components}))
    told = subprocess.run(
        ["/usr/bin/python3", program, "--status", tmp_path / "status", "--suite", "bookworm",
         "--source", f"file://{tmp_path}/lists/", "--format", "summary"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    theirs = {tuple(line.split()[:2]) for line in told.stdout.splitlines()}
    done = CliRunner().invoke(
        cli.root, ["scan", str(tmp_path / "web.cdx.json"), "--db", str(tmp_path / "lists"), "--json", "--fail", "none"]
    )  # fmt: skip
    found = json.loads(done.stdout)["findings"]
    assert {(row["id"], name) for row in found for name in row["packages"]} == theirs
    assert len(theirs) > MANY / 2
