"""A Makefile written for Triton's `buildimage` calls ours, unchanged, in its own setting: a zfs pool."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.integration.pools import DELEGATED, IN_GUEST, command

pytestmark = pytest.mark.skipif(not IN_GUEST, reason="runs in the ZFS guest")

TOP = Path(__file__).resolve().parents[3]


def test_the_recipe_of_the_original_makes_its_three_files(tmp_path: Path) -> None:
    pool = f"{DELEGATED}/dropin"
    command("zfs", "create", pool)
    base = tmp_path / "base"
    (base / "etc").mkdir(parents=True)
    (base / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    # The smallest package manager there can be: it lists nothing and finds nothing wrong.
    for name, text in (("pkg_add", "exit 0"), ("pkg_info", "exit 0"), ("pkg_admin", "exit 0")):
        tool = base / "opt/local/sbin" / name
        tool.parent.mkdir(parents=True, exist_ok=True)
        tool.write_text(f"#!/bin/sh\n{text}\n")
        tool.chmod(0o755)
    for name in ("sh", "true"):
        target = base / "bin" / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(Path("/bin", name).resolve().read_bytes())
        target.chmod(0o755)
    _libraries(base, "/bin/sh")
    archive = tmp_path / "base.tar"
    command("tar", "-C", os.fspath(base), "-cf", os.fspath(archive), ".")
    env = {**os.environ, "BUILDSTEP_POOL": f"zfs:{pool}", "PYTHONPATH": os.fspath(TOP)}
    told = subprocess.run(
        ["python3", "-m", "buildstep", "image", "import", f"tar:{archive}", "--json"],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    uuid = json.loads(told.stdout)["uuid"]
    tool = tmp_path / "buildimage"
    tool.write_text('#!/bin/sh\nexec python3 -m buildstep build --as-buildimage "$@"\n')
    tool.chmod(0o755)
    work = tmp_path / "component"
    command("cp", "-a", os.fspath(TOP / "fixtures/buildimage-make"), os.fspath(work))
    made = subprocess.run(
        ["make", "buildimage", f"BUILDIMAGE={tool}", f"BASE_IMAGE_UUID={uuid}"],
        cwd=work, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    stem = "hello-zfs-main-20240102T030405Z-g0123456"
    found = {path.name for path in (work / "bits/hello").iterdir()}
    assert found == {f"{stem}.zfs.gz", f"{stem}.imgmanifest", f"{stem}.pkgaudit"}
    manifest = json.loads((work / f"bits/hello/{stem}.imgmanifest").read_text())
    assert manifest["origin"] == uuid
    assert manifest["tags"] == {"smartdc_service": True}
    assert manifest["files"][0]["compression"] == "gzip"
    assert command("zfs", "list", "-H", "-o", "name", "-r", pool).count("build-") == 0


def _libraries(root: Path, program: str) -> None:
    """The shared libraries of a program, copied to where it looks for them."""
    for word in command("ldd", program).split():
        if word.startswith("/"):
            target = root / word.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(Path(word).resolve().read_bytes())
            target.chmod(0o755)
