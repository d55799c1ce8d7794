"""The nine components of the fixture on agents of a Jenkins server: each agent has a directory and an image store
of its own, images travel through a real registry, and an agent is killed in the middle."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildstep.errors import ExitCode
from buildstep.files import open_storage, refs
from buildstep.system.process import find
from tests.integration.support import LIMIT, REPOSITORY
from tests.integration.test_components_build import FIXTURE, JOBS, OUTSIDE, Place, buildah
from tests.servers.fixtures import Registry, registry
from tests.servers.jenkins import FakeJenkins, serving
from tests.servers.jenkins_agents import Agent, Farm, LiveRun, farm

__all__ = ["registry"]

PAGE = REPOSITORY / "docs/how-to/build-on-agents.md"
TOKEN = "11aa22bb"
BIN = f"{REPOSITORY}/bin"


def script() -> str:
    """What the page's pipeline runs on an agent."""
    found = re.search(r"sh '(exec buildstep components work [^']*)'", PAGE.read_text())
    assert found is not None
    return found[1]


@dataclass(frozen=True)
class Site:
    """A repository, the server with its agents, and the machine that builds."""

    place: Place
    server: FakeJenkins
    farm: Farm
    registry: Registry

    @property
    def environ(self) -> dict[str, str]:
        return {
            "JENKINS_URL": self.server.url,
            "JENKINS_USER": self.server.user,
            "JENKINS_TOKEN": TOKEN,
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.place.argv("build", "--json", *words),
            env={**self.place.environ, **self.environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def build(self, *words: str, status: int = 0) -> dict[str, dict[str, str]]:
        """Build; return the row of each job."""
        done = self.place.run("build", "--json", *words, **self.environ)
        assert done.returncode == status, done.stderr
        return {row["job"]: row for row in json.loads(done.stdout)["jobs"]}

    def records(self, job: str) -> list[str]:
        """Who did the builds of a job that are recorded."""
        path = self.place.top / "state/records" / f"{job.replace(':', '%3A')}.json"
        return [row["worker"] for row in json.loads(path.read_text())["builds"]]

    def settings(self, **more: object) -> None:
        rows = "".join(f"{name} = {json.dumps(value)}\n" for name, value in more.items())
        (self.place.repo / "components.toml").write_text(
            f'executor = "jenkins"\nhandover = ["dir:{self.place.top}/handover", "docker://{self.registry.host}/ci/jobs"]\n'
            f'[executors.jenkins]\njob = "components"\npoll = 0.1\nlost_after = 0.5\npatience = 1\n{rows}'
        )


def agent(top: Path, name: str) -> Agent:
    """An agent with nothing of what the others have."""
    folder = top / name
    folder.mkdir()
    environ = {
        "PATH": f"{top}/bin:{os.environ['PATH']}",
        "HOME": os.fspath(folder),
        "BUILDSTEP_BUILDAH_ROOT": os.fspath(folder / "store"),
        "BUILDSTEP_COMPONENTS_SCRATCH": os.fspath(folder / "scratch"),
        "BUILDSTEP_COMPONENTS_BUILDER": "buildah",
    }
    return Agent(name, folder, environ)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Iterator[Site]:
    if find("buildah") is None or os.geteuid() != 0:
        pytest.skip("needs buildah, and root")
    top = tmp_path_factory.mktemp("agents")
    shutil.copytree(FIXTURE, top / "repo")
    (top / "bin").mkdir()
    tool = top / "bin/buildstep"
    tool.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m buildstep "$@"\n')
    tool.chmod(0o755)
    (top / "context").mkdir()
    (top / "context/Dockerfile").write_text("FROM scratch\nCOPY name /name\n")
    for name in OUTSIDE:
        (top / "context/name").write_text(name)
        # One of docker's format, as older images are: its id must not change on the way.
        form = "docker" if name.startswith("python") else "oci"
        buildah(
            top, "build", "--quiet", "--format", form, "--timestamp", "0", "--tag", name, os.fspath(top / "context")
        )  # fmt: skip
    agents = [agent(top, "agent-1"), agent(top, "agent-2")]
    with serving(FakeJenkins(token=TOKEN)) as server, farm(server, script(), agents) as made:
        found_site = Site(Place(top, top / "repo"), server, made, registry)
        found_site.settings()
        yield found_site
    for folder in (top, *(it.folder for it in agents)):
        if (folder / "store").exists():
            buildah(folder, "rmi", "--all", "--force")


def running(words: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in text and "pytest" not in text:
            found.append(text)
    return found


def until(condition: object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def of_job(site: Site, words: bytes) -> LiveRun | None:
    """The run whose log has these words, if it still goes on."""
    return next((run for run in site.farm.runs() if words in run.seen and not run.ended), None)


def test_the_fixture_is_built_by_two_agents_of_which_one_is_killed_in_the_middle(site: Site) -> None:
    hook = site.place.repo / "src/zookeeper/build/build-pre.sh"
    hook.write_text("#!/bin/sh\necho in the middle of it\nsleep 2\n")
    hook.chmod(0o755)
    child = site.start()
    killed: list[str] = []

    def kill() -> None:
        until(lambda: of_job(site, b"in the middle of it") or child.poll() is not None, LIMIT)
        run = of_job(site, b"in the middle of it")
        assert run is not None
        assert run.agent is not None
        killed.append(run.agent.name)
        run.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    out, err = child.communicate(timeout=LIMIT)
    killer.join()
    assert child.returncode == 0, err
    rows = {row["job"]: row for row in json.loads(out)["jobs"]}
    assert {row["state"] for row in rows.values()} == {"built"}
    assert len(rows) == JOBS + 1
    assert {row["worker"] for row in rows.values()} == {"agent-1", "agent-2"}
    assert rows["zookeeper:pre"]["worker"] not in killed
    assert f"zookeeper:pre: no result from {killed[0]}, " in err
    assert "zookeeper:pre| in the middle of it" in err
    assert re.search(r"base-image: built in .* on agent-[12]: sha256:", err)
    for name, row in rows.items():
        assert site.records(name) == [row["worker"]]
    again = site.build()
    assert {row["state"] for row in again.values()} == {"reused"}
    # What is left: results by digest; no ticket, and nothing on the agents but their images.
    names = {ref.name.split("/")[1] for ref in refs.every(open_storage(f"dir:{site.place.top}/handover"))}
    assert names == {"products"}
    for it in site.farm.agents.values():
        assert [path.name for path in (it.folder / "scratch").iterdir()] == ["lock"]
    # The same images as here, also from a base of docker's format.
    local = Place(site.place.top, site.place.repo)
    done = local.run(
        "build", "--json", "--executor", "local", "--handover", f"dir:{site.place.top}/empty",
        BUILDSTEP_COMPONENTS_STATE=os.fspath(site.place.top / "local"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    here = {row["job"]: row["output"] for row in json.loads(done.stdout)["jobs"]}
    assert here == {name: row["output"] for name, row in rows.items()}


def test_a_later_build_here_and_a_push_fetch_what_agents_have_built(site: Site, tmp_path: Path) -> None:
    """On a machine that has none of the images."""
    shutil.copytree(site.place.repo, tmp_path / "repo")
    shutil.copytree(site.place.top / "state", tmp_path / "state")
    for number, name in enumerate(OUTSIDE):
        folder = tmp_path / f"base-{number}"
        buildah(site.place.top, "push", "--quiet", name, f"dir:{folder}")
        buildah(tmp_path, "pull", "--quiet", f"dir:{folder}")
        manifest = json.loads((folder / "manifest.json").read_text())
        buildah(tmp_path, "tag", manifest["config"]["digest"].removeprefix("sha256:"), name)
    fresh = Site(Place(tmp_path, tmp_path / "repo"), site.server, site.farm, site.registry)
    fresh.place.edit("end-to-end-test/cases/job.txt", "\n", "\nmore\n")
    rows = fresh.build("--executor", "local")
    assert [name for name, row in rows.items() if row["state"] == "built"] == ["end-to-end-test"]
    words = ["--registry", f"{site.registry.host}/fetched", "-i", "cleaning-image"]
    done = fresh.place.run("push", "--json", *words)
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)["images"]
    assert row["id"] == rows["cleaning-image"]["output"]
    buildah(tmp_path, "rmi", "--all", "--force")


def test_an_agent_that_is_offline_is_left_and_the_job_goes_to_another(site: Site) -> None:
    """Its build goes on, as far as anybody knows; nobody waits for it."""
    site.place.edit("zookeeper/build/build-pre.sh", "sleep 2", "echo once more; sleep 3")
    child = site.start("-s", "zookeeper")
    until(lambda: of_job(site, b"once more") or child.poll() is not None)
    run = of_job(site, b"once more")
    assert run is not None
    assert run.agent is not None
    site.farm.offline(run.agent.name, "Connection was broken: java.io.EOFException")
    out, err = child.communicate(timeout=LIMIT)
    for row in site.server.nodes:
        row |= {"offline": False, "offlineCauseReason": ""}
    assert child.returncode == 0, err
    rows = {row["job"]: row for row in json.loads(out)["jobs"]}
    assert rows["zookeeper:pre"]["worker"] != run.agent.name
    assert "the agent is offline: Connection was broken" in err


def test_a_signal_aborts_the_builds_at_the_server(site: Site) -> None:
    site.place.edit("zookeeper/build/build-pre.sh", "sleep 3", "echo a long one; sleep 61.5")
    child = site.start("-s", "zookeeper")
    until(lambda: of_job(site, b"a long one") or child.poll() is not None)
    run = of_job(site, b"a long one")
    assert run is not None
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=LIMIT)
    assert child.returncode == 143, err
    assert run.ended
    assert run.result == "ABORTED"
    until(lambda: not running("sleep 61.5"), 5)
    assert "it may still run" not in err


def test_a_failing_job_is_not_tried_again_and_tells_its_log(site: Site) -> None:
    site.place.edit(
        "zookeeper/build/build-pre.sh", "echo a long one; sleep 61.5", "echo no more disk; exit 7"
    )
    before = len(site.farm.runs())
    done = site.place.run("build", "--json", "-s", "zookeeper", **site.environ)
    assert done.returncode == ExitCode.GRAPH
    assert "zookeeper:pre: the hook build/build-pre.sh of zookeeper" in done.stderr
    assert "zookeeper:pre| no more disk" in done.stderr
    assert len(site.farm.runs()) == before + 1
    log = site.place.top / "state/logs/zookeeper:pre.log"
    assert log.read_text() == "in the middle of it\nonce more\nno more disk\n"


def test_a_server_that_goes_away_ends_the_build_with_its_own_exit_code(site: Site, tmp_path: Path) -> None:
    site.place.edit(
        "zookeeper/build/build-pre.sh", "echo no more disk; exit 7", "echo the last one; sleep 62.5"
    )
    agents = [agent(site.place.top, "agent-3")]
    shutil.copytree(site.place.top / "agent-1/store", agents[0].folder / "store", symlinks=True)
    with serving(FakeJenkins(token=TOKEN)) as server, farm(server, script(), agents) as made:
        other = Site(site.place, server, made, site.registry)
        child = other.start("-s", "zookeeper")
        until(lambda: of_job(other, b"the last one") or child.poll() is not None)
        server.faults += [(".", "drop")] * 1000
        _, err = child.communicate(timeout=LIMIT)
        assert child.returncode == ExitCode.CI, err
        assert "the Jenkins server cannot be worked with" in err
        assert "it may still run, as the server could not be told to stop it: http" in err
        assert running(os.fspath(site.place.repo)) == []
    until(lambda: not running("sleep 62.5"), 5)


def test_what_is_wrong_with_job_or_nodes_is_told_before_anything_is_triggered(site: Site) -> None:
    before = dict(site.server.counts)
    site.settings(labels=["gpu"])
    try:
        done = site.place.run("build", "-s", "zookeeper", **site.environ)
        assert done.returncode == ExitCode.CI
        assert "agent-1: does not have the label gpu" in done.stderr
        done = site.place.run("build", "-s", "zookeeper", "--worker-label", "agent-1", JENKINS_URL="")
        assert done.returncode == ExitCode.USAGE
        assert "no Jenkins server is given" in done.stderr
        site.settings(labels=[], tries=0, odd=1)
        done = site.place.run("build", "-s", "zookeeper", **site.environ)
        assert done.returncode == ExitCode.USAGE
        assert "tries" in done.stderr
        assert "odd" in done.stderr
        site.server.jobs["components"].parameters = ("TICKET",)
        site.settings()
        done = site.place.run("build", "-s", "zookeeper", **site.environ)
        assert done.returncode == ExitCode.CI
        assert "has no parameter HANDOVER, NODE" in done.stderr
    finally:
        site.server.jobs["components"].parameters = ("TICKET", "HANDOVER", "NODE")
        site.settings()
    trigger = "POST /job/components/buildWithParameters"
    assert site.server.counts[trigger] == before.get(trigger, 0)
