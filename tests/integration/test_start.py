"""What a build loads: start-up is most of a build with nothing to do, so what few builds need is loaded on use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkouts import REPO
from tests.integration.conftest import demand

OUTSIDE = {
    "boto3", "botocore", "consul", "cryptography", "dask", "distributed", "isal", "jenkins", "jinja2", "libzfs_core",
    "markupsafe", "multiprocessing", "pyfastcdc", "requests", "rich", "sh", "urllib3", "yaml",
    "asyncio", "email", "http", "sqlite3", "ssl", "tomllib", "unittest", "xml",
}  # fmt: skip
"""Packages that a build with nothing to do has no use for: of others, and of Python's own those that cost most."""

ROOMS = {"assets", "components", "services", "trust"}
"""Rooms of ours that no build needs."""

NAMES = {"buildstep.trust", "buildstep.trust.sidecars"}
"""What names files beside an image, and nothing more."""

MODULES = {
    "buildstep.net.http", "buildstep.net.imgapi", "buildstep.net.registry", "buildstep.net.s3", "buildstep.net.transport",
    "buildstep.images.repositories", "buildstep.images.sources.docker",
    "buildstep.files.compare", "buildstep.rootfs.installers.apt_archives", "buildstep.rootfs.installers.apt",
    "buildstep.cache.remote.store", "buildstep.emit.btrfs", "buildstep.emit.zfs",
}  # fmt: skip

MOST = 310
"""Modules of ours that a build with nothing to do may load; more need a reason. It has 306."""


def loaded(tmp_path: Path, *words: str) -> set[str]:
    """The modules that a build loaded, in all of its processes."""
    argv = [sys.executable, "-X", "importtime", "-P", "-m", "buildstep", "build", "--quiet", *words]
    env = {**os.environ, "PYTHONPATH": os.fspath(REPO), "BUILDSTEP_POOL": f"overlay:{tmp_path}/pool"}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert len(rows) > 100
    return {row.rpartition("|")[2].strip() for row in rows}


@pytest.fixture
def component(tmp_path: Path) -> Path:
    demand("root", "namespaces", "overlay")
    (tmp_path / "proto/etc").mkdir(parents=True)
    (tmp_path / "proto/etc/motd").write_text("hello\n")
    (tmp_path / "m.json").write_text('{"name": "small", "version": "1", "build": {"image": "scratch"}}')
    return tmp_path


def test_a_build_with_nothing_to_do_loads_little(component: Path) -> None:
    loaded(component, "m.json")
    names = loaded(component, "m.json")
    ours = {name for name in names if name.startswith("buildstep.")}
    assert sorted({name.partition(".")[0] for name in names} & OUTSIDE) == []
    assert sorted({name.split(".")[1] for name in ours - NAMES} & ROOMS) == []
    assert sorted(ours & MODULES) == []
    assert len(ours) <= MOST


def test_a_build_without_network_loads_nothing_for_it(component: Path) -> None:
    """Cold, too. (Python's own importlib.metadata, which tells a codec's version, loads `email`.)"""
    names = loaded(component, "m.json")
    assert sorted({name.partition(".")[0] for name in names} & (OUTSIDE - {"email"})) == []
    installers = {name for name in MODULES if name.startswith("buildstep.rootfs.installers.")}
    assert sorted(names & (MODULES - installers)) == []
