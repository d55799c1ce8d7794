"""The doctor on real machines: what is not there, who is not root, and disks that are too small."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Require
from tests.integration.ordinary_user import NO_MOUNTS, NO_NAMESPACES

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534


def snapshot(top: Path) -> list[tuple[str, int, int, int]]:
    found = []
    for folder, folders, files in os.walk(top):
        for name in [*folders, *files]:
            info = os.lstat(os.path.join(folder, name))
            found.append((os.path.join(folder, name), info.st_ino, info.st_mtime_ns, info.st_ctime_ns))
    return sorted(found)


def run(
    *argv: str, cwd: Path, before: str = "", user: int | None = None, **environ: str
) -> tuple[int, dict[str, Any]]:
    """`doctor --json` with these arguments; before: shell commands in a mount namespace of its own."""
    python, path = sys.executable, os.fspath(REPOSITORY)
    if user is not None:
        python, path = _python_of_everybody(user)
    command = [python, "-P", "-m", "buildstep", "doctor", "--json", *argv]
    if before:
        command = [
            "unshare",
            "--mount",
            "--propagation=slave",
            "sh",
            "-euc",
            f'{before}\nexec "$@"',
            "sh",
            *command,
        ]
    keep = {key: value for key, value in os.environ.items() if not key.startswith("BUILDSTEP_")}
    done = subprocess.run(
        command, cwd=cwd, env={**keep, "PYTHONPATH": path, **environ}, capture_output=True,
        text=True, timeout=120, check=False, user=user, group=user, extra_groups=None if user is None else [],
    )  # fmt: skip
    assert done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["exit_code"] == done.returncode
    return done.returncode, told


def _python_of_everybody(user: int) -> tuple[str, str]:
    """A Python that this user can start, and the path of our packages for it. Ours may be in root's home."""
    import click

    path = f"{REPOSITORY}:{Path(click.__file__).parents[1]}"
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            trial = [python, "-P", "-c", "import click, requests, jinja2, buildstep.cli.doctor"]
            done = subprocess.run(
                trial, env={"PYTHONPATH": path}, capture_output=True, check=False, user=user, group=user,
                extra_groups=[],
            )  # fmt: skip
            if not done.returncode:
                return python, path
    pytest.skip("there is no Python with our packages that an ordinary user can start")


def rows(told: dict[str, Any], level: str, area: str = "") -> list[dict[str, str]]:
    return [row for row in told["findings"] if row["level"] == level and (not area or row["area"] == area)]


def manifest(**build: object) -> str:
    return json.dumps({"name": "hello", "version": "1.0.0", "build": {"image": "scratch", **build}})


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "proto").mkdir()
    return tmp_path


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that somebody else than root can reach and owns."""
    with tempfile.TemporaryDirectory(prefix="doctor-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "proto").mkdir()
        for path in (folder, folder / "proto"):
            os.chown(path, NOBODY, NOBODY)
            path.chmod(0o755)
        yield folder


def test_this_machine_can_build_the_sample_or_says_why_not(work: Path, require: Require) -> None:
    require("root", "namespaces", "overlay", "mmdebstrap", "rsync", "mirror")
    sample = REPOSITORY / "fixtures/sample"
    before = snapshot(work)
    status, told = run(
        "-m", f"{sample}/m.json", "--pool", f"overlay:{work}/pool", f"{sample}/proto", cwd=work
    )
    assert (status, rows(told, "error")) == (0, [])
    kernel = [row["where"] for row in rows(told, "ok", "kernel")]
    assert kernel == ["namespaces", "devices", "commands in an image", "system calls"]
    assert rows(told, "ok", "network"), "the mirror was asked"
    # A new pool's file system is tried with a folder that comes and goes; nothing else happens.
    assert snapshot(work) == before


def test_tools_that_are_not_there(work: Path, require: Require) -> None:
    require("root", "namespaces", "mirror")
    masked = [name for name in ("rsync", "mmdebstrap", "bwrap") if shutil.which(name)]
    if len(masked) < 3:
        pytest.skip("has not got the tools that this hides")
    # A path is not enough: the sbin and bin folders of the system are searched as well.
    hide = "\n".join(f"mount --bind /dev/null {shutil.which(name)}" for name in masked)
    status, told = run(
        "-m", manifest(image="mmdebstrap:bookworm", packages=["nginx-light"]),
        "--pool", f"overlay:{work}/pool", "proto", cwd=work, before=hide,
    )  # fmt: skip
    assert status in (5, 13)
    missing = rows(told, "error", "tools")
    assert [row["where"] for row in missing] == ["rsync", "mmdebstrap", "bwrap"]
    assert [row["fix"] for row in missing] == [
        "apt-get install rsync", "apt-get install mmdebstrap", "apt-get install bubblewrap",
    ]  # fmt: skip
    # What can do without them is not stopped.
    status, told = run("-m", manifest(), "--pool", f"overlay:{work}/pool", "proto", cwd=work, before=hide)
    assert (status, rows(told, "error")) == (0, [])


def test_a_user_without_root_and_without_sub_ids(open_folder: Path, require: Require) -> None:
    require("root")
    home = os.fspath(open_folder)
    before = snapshot(open_folder)
    status, told = run("-m", manifest(), "proto", cwd=open_folder, user=NOBODY, HOME=home, XDG_DATA_HOME=home)
    assert (status, rows(told, "error")) == (0, [])
    assert told["pool"] == f"dir:{home}/buildstep/dir"
    status, told = run(
        "-m", manifest(packages=["a"]), "proto", cwd=open_folder, user=NOBODY, HOME=home, XDG_DATA_HOME=home
    )
    assert status == 5
    problems = [row["what"] for row in rows(told, "error", "privileges")]
    assert any("/etc/subuid" in text for text in problems)
    assert all("or run as root" in row["fix"] for row in rows(told, "error", "privileges"))
    # Its home's own time moved when the pool was looked for; nothing came or went.
    assert [row[0] for row in snapshot(open_folder)] == [row[0] for row in before]


def test_a_pool_that_another_user_owns(open_folder: Path, require: Require, tmp_path: Path) -> None:
    require("root")
    tmp_path.chmod(0o755)
    status, told = run(
        "-m",
        manifest(),
        "--pool",
        "dir:/root/pool",
        "proto",
        cwd=open_folder,
        user=NOBODY,
        HOME="/nonexistent",
    )
    assert status == 10
    assert rows(told, "error", "pool")


def test_a_disk_without_space_and_one_without_inodes(work: Path, require: Require) -> None:
    require("root", "namespaces", "mkfs.ext4")
    with (work / "proto/big").open("wb") as stream:
        stream.write(os.urandom(24 << 20))
    image, where = work / "disk.img", work / "disk"
    where.mkdir()
    uri = f"dir:{where}/pool"
    for options, text in (("", "free, about"), ("-N 16", "inodes free")):
        with image.open("wb") as stream:
            stream.truncate(16 << 20 if not options else 200 << 20)
        subprocess.run(f"mkfs.ext4 -q -F {options} {image}", shell=True, check=True)
        mount = f"mount -o loop {image} {where}"
        base = {} if not options else {"image": "mmdebstrap:bookworm"}
        status, told = run(
            "-m", manifest(exclude=["[[:digit:]]"], **base), "--pool", uri, "--no-network", "proto", cwd=work,
            before=mount,
        )  # fmt: skip
        problem = rows(told, "error", "pool")
        assert problem, told
        assert text in problem[0]["what"]
        assert "--pool" in problem[0]["fix"]
        assert status == 6
    assert told["forecast"]["proto"] == 24 << 20
    # The output directory is on the large disk; turned around, it is the small one.
    with image.open("wb") as stream:
        stream.truncate(4 << 20)
    subprocess.run(f"mkfs.ext4 -q -F {image}", shell=True, check=True)
    status, told = run(
        "-m", manifest(), "--pool", f"dir:{work}/pool", "-o", f"{where}/out", "proto", cwd=work, before=mount
    )
    assert status == 6, told
    assert rows(told, "error", "output")


def test_a_container_without_the_right_to_mount(work: Path, require: Require) -> None:
    """Its root builds in a user namespace; where it may not have one, without packages only."""
    require("root", "setpriv", "namespaces", "bwrap", "rsync")
    asked = ("--json", "-m", manifest(), "--pool", f"overlay:{work}/pool", "proto")

    def run_through(through: Sequence[str], *words: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [*through, sys.executable, "-P", "-m", "buildstep", "doctor", *words],
            cwd=work, env={**os.environ, "PYTHONPATH": os.fspath(REPOSITORY), "HOME": os.fspath(work)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout)

    status, told = run_through(NO_MOUNTS, *asked, "-p", "one")
    assert status == 0, told
    assert rows(told, "ok", "privileges")[0]["where"] == "root of a user namespace"
    closed = (*NO_NAMESPACES, *NO_MOUNTS)
    status, told = run_through(closed, *asked)
    (problem,) = rows(told, "error", "pool")
    assert status == 10
    assert "CAP_SYS_ADMIN" in problem["what"]
    assert f"--pool dir:{work}/pool" in problem["fix"]
    dirs = [word.replace("overlay:", "dir:") for word in asked]
    status, told = run_through(closed, *dirs)
    assert (status, rows(told, "ok", "privileges")[0]["what"].partition(";")[0]) == (
        0,
        "root that may not mount",
    )
    status, told = run_through(closed, *dirs, "-p", "one")
    assert status == 13
    assert "CAP_SYS_ADMIN" in rows(told, "error", "privileges")[0]["fix"]
