"""The sample component, built by the real bin/build with `make image`, as its user would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.checkouts import checkout

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs GNU make")


def test_the_sample_component(tmp_path: Path) -> None:
    made = checkout(tmp_path / "build step's", fake=False)
    component = made.path / "fixtures/component"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "BUILDSTEP_POOL": f"dir:{tmp_path}/pool"}

    def make(*argv: str) -> str:
        call = ["make", *argv]
        done = subprocess.run(call, cwd=component, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    out = make("image")
    shown = [line for line in out.splitlines() if line.startswith("bits/")]
    assert [Path(name).suffix for name in shown] == [".tar", ".zst", ".imgmanifest", ".json"]
    manifest = json.loads((component / shown[2]).read_text())
    assert manifest["description"] == 'Ann\'s hello, and "friends"'
    assert (component / shown[0]).stat().st_size == manifest["files"][0]["size"]
    with tarfile.open(component / shown[0]) as archive:
        assert "index.json" in archive.getnames()
    assert "Nothing to be done" in make("image")
    assert "Nothing to be done" in make("-n", "image")
    assert "sync" in make("image-plan")
    make("image-clean")
    assert not (component / "bits").exists()
