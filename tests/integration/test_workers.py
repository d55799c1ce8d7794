"""Builds whose layers are made in worker processes: the same image with any number, and nothing left of a failure."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import demand
from tests.integration.support import (
    EPOCH,
    LIMIT,
    Lab,
    descendants,
    end,
    host_state,
    none_left,
    wait_for,
)

EXACT = {"SOURCE_DATE_EPOCH": str(EPOCH)}
PARTS = 5


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A proto directory of 75 MB, of which a layer cannot be more than a part."""
    top = tmp_path_factory.mktemp("large") / "proto"
    rng = random.Random(3)
    noise = rng.randbytes(1 << 20)
    for number in range(1200):
        path = top / f"srv/part{number % PARTS}/{number % 30:02d}/file{number:04d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        at = rng.randrange(900_000)
        path.write_bytes(noise[at : at + rng.randrange(90_000)] + b"text " * rng.randrange(8000))
    return top


@pytest.fixture
def lab(request: pytest.FixtureRequest, base: Path, tmp_path: Path, tree: Path) -> Iterator[Lab]:
    demand("root", "namespaces", "overlay", "rsync")
    made = Lab(top=tmp_path, base=base, scheme=getattr(request, "param", "overlay"))
    for path in tree.iterdir():
        subprocess.run(["cp", "-al", path, made.proto], check=True)
    before = host_state(tmp_path)
    yield made
    assert none_left(os.fspath(tmp_path)) == []
    assert host_state(tmp_path) == before


def record(lab: Lab) -> dict[str, Any]:
    (path,) = lab.out.glob("*.buildrecord.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def fresh(lab: Lab) -> None:
    """Nothing was built before."""
    for path in (lab.pool, lab.out):
        shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize("lab", ["overlay", "dir"], indirect=True)
def test_any_number_of_workers_makes_the_same_image(lab: Lab) -> None:
    """Cold, and after a change of files all over the tree; and the cost is the same."""
    found = []
    for count in (1, 2, 3, 7) if lab.scheme == "overlay" else (1, 3):
        fresh(lab)
        rows = []
        for text in ("first", "second"):
            for number in range(PARTS):
                (lab.proto / f"srv/part{number}/new").write_text(text)
            built = lab.built(env={**EXACT, "BUILDSTEP_WORKERS": str(count)})
            counts = record(lab)["counts"]
            rows.append((built["files"][0]["sha256"], built["tree_digest"], counts))
        found.append(rows)
    assert all(rows == found[0] for rows in found)
    assert found[0][0][2]["layers_made"] > 2
    assert found[0][0][2]["files_read"] > 1200


def test_a_text_is_looked_through_while_it_is_read(lab: Lab) -> None:
    """With files that the layers do not read in one go, too."""
    small, large = lab.proto / "srv/part3/small", lab.proto / "srv/part1/large"
    small.write_text(f"a\nb = {lab.out}/x\n")
    large.write_text("x\n" * 100_000 + f"{lab.proto}/y\n")
    env = {**EXACT, "BUILDSTEP_CHECKS": "", "BUILDSTEP_WORKERS": "2"}
    done = lab.refused(25, env=env)
    assert "host-path" in done.stderr
    assert f"/srv/part3/small has a path of the CI host in line 2: {lab.out}" in done.stderr
    assert f"/srv/part1/large has a path of the CI host in line 100001: {lab.proto}" in done.stderr
    small.unlink()
    large.unlink()
    lab.built(env=env)
    names = [row["check"] for row in record(lab)["checks"]]
    assert "host-path" in names


# -- failures ---------------------------------------------------------------------------------------------


@contextmanager
def started(lab: Lab, **env: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A build, and its workers as soon as one of them writes a layer; they are stopped then."""
    child = subprocess.Popen(
        lab.argv("--json"), env=lab.env(BUILDSTEP_WORKERS="3", **env), cwd=lab.top, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        found: list[int] = []

        def working() -> bool:
            # The first is the build itself, which makes the layer of the base.
            found[:] = [pid for pid in descendants(child.pid)[1:] if layers_of(pid)]
            return bool(found)

        wait_for(working, child)
        for pid in found:
            os.kill(pid, signal.SIGSTOP)
        yield child, found
    finally:
        end(child)


def layers_of(pid: int) -> list[str]:
    """The layers without a name that a process has open."""
    names = []
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
            if "/state/blobs/." in target and target.endswith(".part"):
                names.append(target)
    except OSError:
        return []
    return names


def new_layers(lab: Lab) -> list[Path]:
    return [path for path in (lab.pool / "state/blobs").iterdir() if path.name.startswith(".")]


def test_a_worker_that_is_killed_ends_the_build_with_an_error(lab: Lab) -> None:
    with started(lab) as (child, pids):
        os.kill(pids[0], signal.SIGKILL)
        for pid in pids[1:]:
            os.kill(pid, signal.SIGCONT)
        out, err = child.communicate(timeout=LIMIT)
    assert (child.returncode, out) == (14, ""), err
    assert "a worker process was killed by SIGKILL while it made a layer" in err
    assert "BUILDSTEP_WORKERS" in err
    assert "Traceback" not in err
    assert (lab.leftovers(), new_layers(lab), lab.outputs()) == ([], [], {})


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_build_and_its_workers(lab: Lab, signum: int) -> None:
    with started(lab) as (child, pids):
        child.send_signal(signum)
        out, err = child.communicate(timeout=LIMIT)  # although they are stopped
    assert (child.returncode, out) == (128 + signum, ""), err
    assert "Traceback" not in err
    assert none_left(os.fspath(lab.top)) == []
    assert not any(map(layers_of, pids))
    assert (lab.leftovers(), new_layers(lab), lab.outputs()) == ([], [], {})


def test_nothing_is_left_of_a_build_that_was_killed(lab: Lab) -> None:
    with started(lab) as (child, _):
        for pid in (child.pid, *descendants(child.pid)[:1]):
            os.kill(pid, signal.SIGKILL)
        child.communicate(timeout=LIMIT)
        assert none_left(os.fspath(lab.top)) == []
    assert new_layers(lab) != []
    assert lab.heal() is not None
    assert (lab.leftovers(), new_layers(lab), lab.outputs()) == ([], [], {})
    lab.built()


def test_a_pool_that_is_full_is_told(lab: Lab) -> None:
    lab.pool.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m,mode=700", "tmpfs", lab.pool], check=True)
    try:
        done = lab.refused(6, env={"BUILDSTEP_WORKERS": "3"})
        assert "No space left on device" in done.stderr
        assert new_layers(lab) == []
    finally:
        subprocess.run(["umount", lab.pool], check=True)


def test_a_number_of_workers_that_is_none(lab: Lab) -> None:
    done = lab.refused(2, env={"BUILDSTEP_WORKERS": "none"})
    assert "BUILDSTEP_WORKERS is 'none'" in done.stderr
    assert not lab.pool.exists()
