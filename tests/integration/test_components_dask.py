"""The nine components of the fixture on a dask cluster: a scheduler and three workers, each with a network, a directory
and an image store of its own; images travel through a real registry and all else through a real S3 store, and a worker
is killed in the middle."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from buildstep.components.records import Records
from buildstep.errors import ExitCode
from buildstep.system.process import find
from tests.integration.support import LIMIT, REPOSITORY
from tests.integration.test_components_build import FIXTURE, JOBS, OUTSIDE, Place, buildah
from tests.servers.dask_cluster import DaskWorker, Network, network, scheduler, worker
from tests.servers.fixtures import start_registry, weed_server

pytest.importorskip("distributed")

NAMES = ("worker-1", "worker-2", "worker-3")


@dataclass
class Site:
    """A repository, the cluster with its servers, and the machine that builds."""

    place: Place
    net: Network
    scheduler: str
    handover: tuple[str, str]
    shared: dict[str, str]
    workers: dict[str, DaskWorker] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        return {**self.place.environ, **self.shared}

    def words(self, *words: str) -> list[str]:
        urls = [word for url in self.handover for word in ("--handover", url)]
        return self.place.argv("build", "--json", "--executor", "dask", *urls, *words)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words(*words), env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*words), env=self.environ, capture_output=True, text=True, timeout=LIMIT, check=False
        )

    def settings(self, **more: object) -> None:
        rows = {"scheduler": self.scheduler, "patience": 20, **more}
        table = "".join(f"{name} = {json.dumps(value)}\n" for name, value in rows.items())
        (self.place.repo / "components.toml").write_text(f"[executors.dask]\n{table}")

    def hook(self, component: str, *lines: str) -> None:
        path = self.place.repo / f"src/{component}/build/build-pre.sh"
        path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        path.chmod(0o755)

    def doing(self, words: str) -> DaskWorker | None:
        """The worker on which a process has these words in its command line."""
        for member in self.workers.values():
            if any(os.fspath(member.folder) in environ for environ in _environs(words)):
                return member
        return None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if find("buildah") is None or os.geteuid() != 0:
        pytest.skip("needs buildah, and root")
    top = tmp_path_factory.mktemp("dask")
    shutil.copytree(FIXTURE, top / "repo")
    for name in ("context", "registry", "weed"):
        (top / name).mkdir()
    (top / "context/Dockerfile").write_text("FROM scratch\nCOPY name /name\n")
    for name in OUTSIDE:
        (top / "context/name").write_text(name)
        buildah(top, "build", "--quiet", "--timestamp", "0", "--tag", name, os.fspath(top / "context"))
    with ExitStack() as stack:
        net = stack.enter_context(network())
        registry = next(servers := start_registry(top / "registry", address=net.here))
        stack.callback(servers.close)  # type: ignore[attr-defined]
        store = stack.enter_context(weed_server(top / "weed", net.here))
        handover = (f"s3://{store.bucket}/handover", f"docker://{registry.host}/ci/jobs")
        shared = {
            **store.environ,
            "AWS_ENDPOINT_URL_S3": store.endpoint,
            "BUILDSTEP_INSECURE_REGISTRIES": registry.host,
            "PYTHONPATH": os.fspath(REPOSITORY),
        }
        address = stack.enter_context(scheduler(net, top))
        found = Site(Place(top, top / "repo"), net, address, handover, shared)
        for name in NAMES:
            folder = top / name
            own = {
                **shared,
                "HOME": os.fspath(folder),
                "BUILDSTEP_BUILDAH_ROOT": os.fspath(folder / "store"),
                "BUILDSTEP_COMPONENTS_SCRATCH": os.fspath(folder / "scratch"),
                "BUILDSTEP_COMPONENTS_BUILDER": "buildah",
                "BUILDSTEP_POOL": f"dir:{folder}/pool",
            }
            more = ["--resources", "special=1"] if name == NAMES[2] else []
            found.workers[name] = stack.enter_context(
                worker(net, address, name, folder, own, "--nthreads", "1", *more)
            )
        found.settings()
        yield found
    for folder in (top, *(top / name for name in NAMES)):
        if (folder / "store").exists():
            buildah(folder, "rmi", "--all", "--force")


def _environs(words: str) -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words in path.read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                yield (path.parent / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_the_fixture_is_built_by_three_workers_of_which_one_is_killed_in_the_middle(site: Site) -> None:
    site.hook("zookeeper", "echo in the middle of it", "sleep 3.1459")
    child = site.start()
    killed: list[str] = []

    def kill() -> None:
        until(lambda: site.doing("sleep 3.1459") or child.poll() is not None, LIMIT)
        member = site.doing("sleep 3.1459")
        assert member is not None
        killed.append(member.name)
        member.kill()
        # What it did ends with it: nobody is left who could put a result.
        until(lambda: not any(os.fspath(member.folder) in text for text in _environs("components work")), 5)

    killer = threading.Thread(target=kill)
    killer.start()
    out, err = child.communicate(timeout=LIMIT)
    killer.join()
    assert child.returncode == 0, err
    rows = {row["job"]: row for row in json.loads(out)["jobs"]}
    assert {row["state"] for row in rows.values()} == {"built"}, err
    assert len(rows) == JOBS + 1
    assert {row["worker"] for row in rows.values()} == set(NAMES)
    assert rows["zookeeper:pre"]["worker"] not in killed
    assert f"zookeeper:pre: {killed[0]} was lost, {rows['zookeeper:pre']['worker']} does it now" in err
    assert "zookeeper:pre| in the middle of it" in err
    assert re.search(r"base-image\| STEP 1/", err)
    records = Records(site.place.top / "state")
    for name, row in rows.items():
        last = records.last(name)
        assert last is not None
        assert last.worker == row["worker"]
    again = site.run()
    assert {row["state"] for row in json.loads(again.stdout)["jobs"]} == {"reused"}, again.stderr
    for name in set(NAMES) - set(killed):
        assert [path.name for path in (site.workers[name].folder / "scratch").iterdir()] == ["lock"]


def test_a_label_is_a_resource_of_workers_and_what_cannot_be_done_is_told_first(site: Site) -> None:
    done = site.run("--worker-label", "no-such-thing", "--again", "-s", "zookeeper")
    assert done.returncode == ExitCode.CI
    assert "worker-1: it does not offer no-such-thing" in done.stderr or "worker-2: it does" in done.stderr
    site.settings(tls_cert="x")
    assert site.run().returncode == ExitCode.USAGE
    site.settings(scheduler=f"tcp://{site.net.here}:9", patience=1)
    gone = site.run()
    assert gone.returncode == ExitCode.CI
    assert "cannot be reached" in gone.stderr
    site.settings()


def test_a_build_that_is_stopped_ends_what_runs_on_the_workers(site: Site) -> None:
    site.hook("zookeeper", "sleep 271.828")
    child = site.start("-s", "zookeeper")
    until(lambda: site.doing("sleep 271.828"), LIMIT)
    child.terminate()
    assert child.wait(30) == 128 + 15
    until(lambda: not any(_environs("sleep 271.828")), 10)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    child.stderr.close()


def test_a_job_that_fails_says_so_as_it_does_here(site: Site) -> None:
    site.hook("zookeeper", "echo no room; exit 7")
    done = site.run("-s", "zookeeper")
    assert done.returncode == ExitCode.GRAPH
    assert "zookeeper:pre| no room" in done.stderr
    row = next(row for row in json.loads(done.stdout)["jobs"] if row["job"] == "zookeeper:pre")
    assert row["state"] == "failed"
    assert row["worker"] in NAMES
    assert "no room" in Path(row["log"]).read_text()


def test_the_options_of_the_page_are_those_of_the_programs() -> None:
    page = (REPOSITORY / "docs/how-to/build-on-dask.md").read_text()
    for program in ("scheduler", "worker"):
        line = re.search(rf"\$ dask {program} (.*)", page)
        assert line is not None
        argv = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--help"]
        known = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=True).stdout
        for option in re.findall(r"--[a-z-]+", line[1]):
            assert option in known
