"""What programs are told in place of what the kernel says: order of a listing, day, kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.conftest import Require
from tests.integration.support import REPOSITORY

RUN = """
import json, subprocess, sys
from buildstep.system import answered
changed, argv = json.loads(sys.argv[1]), sys.argv[2:]
assert not answered.why_not()
sys.exit(answered.run(answered.Changed(**changed), lambda: subprocess.run(argv).returncode))
"""
IN_ROOT = ["bwrap", "--tmpfs", "/", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink",
           "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev"]  # fmt: skip


def told(changed: dict[str, object], *argv: str) -> str:
    env = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(changed), *argv],
        env={**env, "PYTHONPATH": os.fspath(REPOSITORY)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def _needs(require: Require) -> None:
    require("root", "namespaces", "bwrap", "busybox")


def test_a_directory_is_listed_the_other_way_round(tmp_path: Path) -> None:
    for number in range(3000):  # more than one call lists
        (tmp_path / f"file-{number}").touch()
    plain = subprocess.run(["ls", "-U", tmp_path], capture_output=True, text=True, check=True).stdout.split()
    other = told({"reverse": True}, "ls", "-U", os.fspath(tmp_path)).split()
    assert other != plain
    assert sorted(other) == sorted(plain)
    told({"reverse": True}, "find", os.fspath(tmp_path), "-name", "file-*", "-delete")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", ["date", "busybox date"])
def test_programs_of_an_image_have_another_day_and_others_have_not(program: str) -> None:
    ahead = 400 * 86400
    words = [*program.split(), "+%s"]
    now = int(told({"seconds": ahead}, *IN_ROOT, *words))
    assert abs(now - time.time() - ahead) < 60
    assert abs(int(told({"seconds": ahead}, *words)) - time.time()) < 60
    with_network = told({"seconds": ahead}, *IN_ROOT, "env", "http_proxy=http://127.0.0.1:1", *words)
    assert abs(int(with_network) - time.time()) < 60


def test_programs_of_an_image_have_another_kernel() -> None:
    changed: dict[str, object] = {"kernel": "9.9.9", "host": "somewhere"}
    assert told(changed, *IN_ROOT, "uname", "-nr") == "somewhere 9.9.9\n"
    assert told(changed, "uname", "-r") == f"{os.uname().release}\n"
