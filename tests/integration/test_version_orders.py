"""The tools whose versions they are order them as we do."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from buildstep.trust.vulnerabilities.orders import ORDERS

STAGES = ["", "-alpha", "-alpha.1", "-alpha.2", "-alpha.10", "-0", "-1.a", "-rc.1+x", "-a-b.3", "+build"]
VERSIONS = [f"{number}{stage}" for number in ("0.9.0", "1.0.0", "1.2.3", "1.10.0") for stage in STAGES]

SCRIPT = """
const semver = require(process.argv[1]);
const pairs = JSON.parse(require('fs').readFileSync(0));
console.log(JSON.stringify(pairs.map(([a, b]) => semver.compare(a, b))));
"""


def test_npm_orders_versions_as_we_do() -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    places = [Path(npm).resolve().parents[1] / "node_modules/semver"] if npm else []
    places += [Path("/usr/share/nodejs/semver")]
    place = next((path for path in places if (path / "package.json").is_file()), None)
    if node is None or place is None:
        pytest.skip("node and the semver of npm are not here")
    pairs = list(itertools.product(VERSIONS, repeat=2))
    done = subprocess.run(
        [node, "-e", SCRIPT, place], input=json.dumps(pairs), capture_output=True, text=True, check=True
    )
    assert [ORDERS["semver"](one, two) for one, two in pairs] == json.loads(done.stdout)


WORDS = (
    "0",
    "1",
    "2",
    "10",
    "01",
    "a",
    "b",
    "rc",
    "~",
    "~",
    "+",
    ".",
    ".",
    "deb12u1",
    "dfsg",
    "+b1",
    "-1",
    "-0.2",
)


def test_dpkg_orders_versions_as_we_do() -> None:
    if not shutil.which("dpkg"):
        pytest.skip("there is no dpkg")
    dice = random.Random(7)
    versions = [
        "1.0",
        "1.0-1",
        "1.0-1~bpo12+1",
        "1.0-1+deb12u1",
        "1:1.0-1",
        "0:1.0-1",
        "2.36-9+deb12u13",
        "1~~a",
    ]
    versions += [f"1{''.join(dice.choices(WORDS, k=dice.randint(1, 4)))}" for _ in range(40)]
    pairs = [(one, two) for one, two in itertools.product(versions, repeat=2) if dice.random() < 0.4]
    script = "".join(f"dpkg --compare-versions '{one}' lt '{two}'; echo $?\n" for one, two in pairs)
    done = subprocess.run(["sh"], input=script, capture_output=True, text=True, check=True)
    told = [line == "0" for line in done.stdout.split()]
    assert [ORDERS["dpkg"](one, two) < 0 for one, two in pairs] == told
