"""A dask cluster that loses its scheduler: what the build says, and what is left on the worker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep.errors import ExitCode
from tests.integration.support import LIMIT, REPOSITORY
from tests.servers.processes import free_port, running
from tests.unit.components.componentdata import write

pytest.importorskip("distributed")

SLEEP = "sleep 3141.59"


def sleeping() -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if SLEEP.encode() in path.read_bytes().replace(b"\0", b" ").rstrip():
                return True
        except OSError:
            continue
    return False


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_scheduler_that_is_lost_ends_the_build_and_what_the_worker_does(tmp_path: Path) -> None:
    root = write(tmp_path / "repo", {
        "components.toml": "[hooks]\nsandbox = false\n",
        "src/low/build/build-pre.sh": f"#!/bin/sh\n{SLEEP}\n",
    })  # fmt: skip
    port = str(free_port())
    address = f"tcp://127.0.0.1:{port}"
    environ = {
        **os.environ,
        "PYTHONPATH": os.fspath(REPOSITORY),
        "DASK_SCHEDULER_ADDRESS": address,
        "BUILDSTEP_COMPONENTS_STATE": f"{tmp_path}/state",
        "BUILDSTEP_COMPONENTS_SCRATCH": f"{tmp_path}/scratch",
        "BUILDSTEP_COMPONENTS_HANDOVER": f"dir:{tmp_path}/handover",
    }
    build = [
        sys.executable,
        "-m",
        "buildstep",
        "components",
        "build",
        "--executor",
        "dask",
        "--root",
        f"{root}",
    ]
    program = [
        sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard",
    ]  # fmt: skip
    log, other = tmp_path / "scheduler.log", tmp_path / "worker.log"
    with running(
        program, log=log, ready=lambda: b"Scheduler at:" in log.read_bytes(), cwd=tmp_path
    ) as scheduler:
        empty = subprocess.run(build, env=environ, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert empty.returncode == ExitCode.CI
        assert "the dask cluster has no workers" in empty.stderr
        worker = [
            "env", *(f"{key}={environ[key]}" for key in ("PYTHONPATH", "BUILDSTEP_COMPONENTS_SCRATCH")),
            sys.executable, "-m", "distributed.cli.dask_worker", address, "--name", "far", "--nthreads", "1",
            "--no-nanny", "--no-dashboard", "--local-directory", f"{tmp_path}/dask",
        ]  # fmt: skip
        with running(worker, log=other, ready=lambda: b"Registered to:" in other.read_bytes(), cwd=tmp_path):
            with subprocess.Popen(build, env=environ, stderr=subprocess.PIPE, text=True) as child:
                until(sleeping)
                scheduler.kill()
                _, said = child.communicate(timeout=LIMIT)
            assert child.returncode == ExitCode.CI
            assert "buildstep: the dask scheduler was lost\n" in said
            assert "Traceback" not in said
            until(lambda: not sleeping(), 10)
    left = [path for path in (tmp_path / "scratch").iterdir() if path.is_dir()]
    assert left == []
