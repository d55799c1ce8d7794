"""The Jenkinsfile and the library's step, parsed and run by real Groovy: their `sh` steps run, files are archived."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.checkouts import REPO, Checkout, checkout

HARNESS = REPO / "tests/jenkins/harness.groovy"


@pytest.fixture(scope="session")
def groovy() -> dict[str, str]:
    """The environment in which groovy runs. On CI it has to be there."""
    java = shutil.which("java")
    if shutil.which("groovy") is None or java is None:
        message = "needs groovy and java (Debian: apt-get install groovy default-jre-headless)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    home = os.environ.get("JAVA_HOME") or str(Path(java).resolve().parents[1])
    return {"PATH": os.environ["PATH"], "JAVA_HOME": home}


@dataclass
class Ran:
    result: str
    trace: list[dict[str, Any]]
    env: dict[str, str]
    output: str

    def stages(self) -> dict[str, bool]:
        return {it["stage"]: not it.get("skipped", False) for it in self.trace if "stage" in it}

    def steps(self, name: str) -> list[dict[str, Any]]:
        return [it for it in self.trace if it.get("step") == name]

    @property
    def posts(self) -> list[str]:
        return [it["post"] for it in self.trace if "post" in it]


class Controller:
    """Runs pipelines in a workspace that is a checkout."""

    def __init__(self, path: Path, groovy: dict[str, str], *, fake: bool = True) -> None:
        self.path, self.groovy = path, groovy
        self.archive = path / "archive"
        self.archive.mkdir(parents=True)
        self.made: Checkout = checkout(path / "work space's", fake=fake)
        self.workspace = self.made.path
        # Beside the workspace, which is gone at the end.
        self.calls = path / "calls"
        self.calls.touch()
        (self.workspace / "calls").symlink_to(self.calls)
        ci = self.workspace / ".ci/run"
        ci.parent.mkdir()
        ci.write_text("#!/bin/sh\necho tests ran\n")
        ci.chmod(0o755)

    def rows(self) -> list[Any]:
        return [json.loads(line) for line in self.calls.read_text().splitlines()]

    def run(
        self,
        source: str | None = None,
        *,
        branch: str = "main",
        env: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
    ) -> Ran:
        if source is not None:
            (self.workspace / "Jenkinsfile").write_text(source)
        config = {
            "jenkinsfile": str(self.workspace / "Jenkinsfile"),
            "workspace": str(self.workspace),
            "vars": str(self.made.path / "jenkins/vars"),
            "archive": str(self.archive),
            "trace": str(self.path / "trace.json"),
            "secrets": {"images-signing-key": "the key"},
            "abort_when": str(self.path / "abort"),
            "env": {"PATH": os.environ["PATH"], "HOME": str(self.path), **(env or {})},
            "params": params or {},
            "build_env": {"BRANCH_NAME": branch, "NODE_NAME": "agent one"},
        }
        (self.path / "config.json").write_text(json.dumps(config))
        done = subprocess.run(
            ["groovy", str(HARNESS), str(self.path / "config.json")],
            env=self.groovy,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        output = done.stdout + done.stderr
        assert (self.path / "trace.json").exists(), output
        found = json.loads((self.path / "trace.json").read_text())
        ran = Ran(result=found["result"], trace=found["trace"], env=found["env"], output=output)
        assert ran.result != "ERROR", output
        return ran

    def step(self, text: str) -> Ran:
        """One call of the library in a pipeline of its own."""
        source = "pipeline {{ agent {{ label 'x' }}\nstages {{ stage('one') {{ steps {{\n{}\n}} }} }} }}"
        return self.run("@Library('buildstep') _\n" + source.format(text))


@pytest.fixture
def controller(tmp_path: Path, groovy: dict[str, str]) -> Controller:
    return Controller(tmp_path, groovy)


def test_all_stages_on_a_branch(controller: Controller) -> None:
    ran = controller.run()
    assert ran.result == "SUCCESS", ran.output
    assert ran.stages() == {"Checkout": True, "Doctor": True, "Image": True, "Tests": True, "Publish": False}
    assert "tests ran" in ran.output
    assert ran.steps("agent")
    assert ran.steps("lock")[0]["args"] == "[resource:buildstep-agent one-default]"
    assert ran.steps("timeout")
    files = sorted(path.name for path in controller.archive.rglob("*") if path.is_file())
    assert files == ["hello-1.0.0.buildrecord.json", "hello-1.0.0.imgmanifest", "hello-1.0.0.oci.tar"]
    assert "fingerprint:true" in ran.steps("archiveArtifacts")[0]["args"]
    assert len(ran.steps("junit")) == len(ran.steps("recordIssues")) == 2
    assert not controller.workspace.exists()


def test_release_branches_publish_with_credentials_by_file(controller: Controller) -> None:
    ran = controller.run(branch="release-20261121")
    assert ran.stages()["Publish"]
    publish = next(row for row in controller.rows() if row[0] == "buildstep" and row[1][0] == "image")
    assert publish[1][-1] == str(controller.workspace / "bits/hello-1.0.0.imgmanifest")
    key = publish[2]["BUILDSTEP_KEY_FILE"]
    assert not Path(key).exists()
    assert "the key" not in ran.output + controller.calls.read_text()


@pytest.mark.parametrize("fault", ["FAKE_DOCTOR", "FAKE_BUILD"])
def test_a_failure_ends_the_build_and_archives_nothing(controller: Controller, fault: str) -> None:
    ran = controller.run(env={fault: "14"})
    assert ran.result == "FAILURE"
    assert "exit code 14" in ran.output
    assert ran.stages()["Tests"] is False
    assert not list(controller.archive.iterdir())
    assert ran.posts == ["cleanup"]


def test_the_step_passes_every_parameter_and_returns_the_result(controller: Controller) -> None:
    ran = controller.step(
        """script {
            def result = buildImage(manifest: 'fixtures/component/m.json', proto: 'fixtures/component/proto',
                image: 'tar:a.tar', packages: ['a', 'b'], formats: ['oci', 'tar'], output: 'out dir', prefix: 'p',
                pool: 'dir:/x', define: [key: "${1 + 1}"], flags: ['--no-cache'], env: [BUILDSTEP_KEY_X: 'it is'],
                lock: 'mine', timeoutMinutes: 5)
            echo "made ${result.files.size()} in ${env.BUILDSTEP_MANIFEST}"
        }"""
    )
    (call,) = [row for row in controller.rows() if row[0] == "build"]
    assert call[1] == [
        *(
            "--manifest",
            "fixtures/component/m.json",
            "--output-dir",
            "out dir",
            "--json",
            "--image",
            "tar:a.tar",
        ),
        *(
            "--image-prefix",
            "p",
            "--pool",
            "dir:/x",
            "--packages",
            "a,b",
            "--format",
            "oci",
            "--format",
            "tar",
        ),
        *("-D", "key=2", "--no-cache", "--", "fixtures/component/proto"),
    ]
    assert call[2] == {"BUILDSTEP_KEY_X": "it is"}
    assert ran.steps("lock")[0]["args"] == "[resource:mine]"
    assert ran.steps("timeout")[0]["args"] == "[time:5, unit:MINUTES]"
    assert f"made 1 in {controller.workspace}/out dir/hello-1.0.0.imgmanifest" in ran.output
    assert (controller.archive / "out dir/hello-1.0.0.oci.tar").exists()


@pytest.fixture
def component(controller: Controller) -> Controller:
    """A controller whose workspace has the files of a component alone, and the Jenkinsfile of the page."""
    controller.workspace = controller.path / "component"
    (controller.workspace / "proto").mkdir(parents=True)
    (controller.workspace / "proto/file").touch()
    (controller.workspace / "m.json").write_text(
        '{"name": "hello", "version": "1", "build": {"image": "scratch"}}'
    )
    page = (REPO / "docs/how-to/jenkins.md").read_text()
    example = re.search(r"```groovy\n(.*?)```", page, re.DOTALL)
    assert example is not None
    (controller.workspace / "Jenkinsfile").write_text(example[1])
    return controller


def test_the_pages_first_example_builds_any_component(component: Controller) -> None:
    path = {"PATH": f"{os.environ['PATH']}:{component.made.path}/bin"}
    ran = component.run(env={**path, "BUILDSTEP_POOL": f"dir:{component.path}/pool"})
    assert ran.result == "SUCCESS", ran.output
    (call,) = [row[1] for row in component.rows() if row[0] == "buildstep"]
    assert call[:3] == ["build", "--manifest", "m.json"]
    assert (component.archive / "bits/hello-1.oci.tar").exists()


def test_the_job_of_components_does_its_ticket_on_the_node_that_is_named(controller: Controller) -> None:
    """The real command, which has no such store: its words are there as one argument each."""
    page = (REPO / "docs/how-to/build-on-agents.md").read_text()
    example = re.search(r"```groovy\n(.*?)```", page, re.DOTALL)
    assert example is not None
    store = f"dir:{controller.path}/no store's".replace(" ", "-")
    params = {"TICKET": "0" * 64, "HANDOVER": f"{store} docker://host.example/y", "NODE": "agent-2"}
    path = f"{controller.made.path}/bin:{os.environ['PATH']}"
    ran = controller.run(example[1], params=params, env={"PATH": path})
    assert ran.result == "FAILURE"
    assert f"there is no store in {store}" in ran.output
    assert "script returned exit code 16" in ran.output
    assert ran.steps("agent")[0]["args"] == "[[agent-2]]"
    assert not ran.steps("checkout")


def test_an_agent_without_buildstep_is_told_what_to_do(component: Controller) -> None:
    ran = component.run(env={"PATH": "/usr/bin:/bin"})
    assert ran.result == "FAILURE"
    assert "there is no buildstep on the PATH of agent one: make a link to bin/buildstep" in ran.output


def test_a_components_own_bin_build_is_not_ours(component: Controller) -> None:
    own = component.workspace / "bin/build"
    own.parent.mkdir()
    own.write_text("#!/bin/sh\nexit 99\n")
    own.chmod(0o755)
    assert "there is no buildstep" in component.run(env={"PATH": "/usr/bin:/bin"}).output


HOSTILE = "x'; touch pwned; echo '$(touch pwned) `touch pwned` \\ \" , * ?"


def test_nothing_in_a_parameter_is_taken_for_shell(controller: Controller) -> None:
    text = HOSTILE.replace("\\", "\\\\").replace("'", "\\'")
    shutil.copytree(controller.workspace / "fixtures/component/proto", controller.workspace / "odd")
    controller.step(
        f"""buildImage(manifest: 'fixtures/component/m.json', proto: '{text}', image: '{text}', prefix: '{text}',
            output: 'out, *put', define: [x: '{text}'], env: [BUILDSTEP_KEY: '{text}'], lock: false)"""
    )
    (call,) = [row for row in controller.rows() if row[0] == "build"]
    assert call[1].count(HOSTILE) == 3
    assert f"x={HOSTILE}" in call[1]
    assert call[2] == {"BUILDSTEP_KEY": HOSTILE}
    assert not list(controller.path.rglob("pwned"))
    assert (controller.archive / "out, *put/hello-1.0.0.oci.tar").exists()


def test_wrong_parameters_are_all_told_before_anything_runs(controller: Controller) -> None:
    ran = controller.step("buildImage(manifst: 'm.json', packages: 'a b')")
    assert ran.result == "FAILURE"
    for text in ("no parameter manifst", "manifest is missing", "proto is missing", "packages is not a list"):
        assert text in ran.output
    assert controller.rows() == []


def test_a_wrong_word_is_an_error(controller: Controller) -> None:
    """Of the harness: what passes here is made of words that a controller knows."""
    with pytest.raises(AssertionError, match="stepz"):
        controller.run("pipeline { agent { label 'x' }\nstages { stage('one') { stepz { sh 'true' } } } }")


def test_secrets_are_expanded_by_the_shell_and_not_by_groovy() -> None:
    for name in ("Jenkinsfile", "jenkins/vars/buildImage.groovy"):
        text = (REPO / name).read_text()
        for script in re.findall(r"\bsh\b.*", text):
            assert not re.search(r'script:\s*"', script), f"{name}: {script}"


def test_an_abort_leaves_nothing(tmp_path: Path, groovy: dict[str, str]) -> None:
    """The real build, ended as a controller ends it: SIGTERM to every process of it, in the midst of its work."""
    controller = Controller(tmp_path, groovy, fake=False)
    pool = tmp_path / "pool"
    component = controller.workspace / "fixtures/component"
    with open(component / "proto/large", "wb") as stream:
        stream.writelines(os.urandom(1 << 20) for _ in range(96))
    (component / "m.json").write_text(
        '{"name": "hello", "version": "1", "build": {"image": "scratch", "formats": ["tar"], "compression": "xz"}}'
    )

    def abort_in_the_midst() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and not list(controller.workspace.glob("bits/.*.part")):
            time.sleep(0.01)
        (tmp_path / "abort").touch()

    watcher = threading.Thread(target=abort_in_the_midst)
    watcher.start()
    ran = controller.run(env={"BUILDSTEP_POOL": f"dir:{pool}"})
    watcher.join()
    assert ran.result == "ABORTED", ran.output
    assert ran.stages()["Tests"] is False
    assert ran.posts == ["aborted", "cleanup"]
    assert [it["status"] for it in ran.steps("sh")][-2:] == [143, 0], ran.output
    assert not list(controller.archive.iterdir())
    assert not controller.workspace.exists()
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert list(pool.rglob("*large*")) == []
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in running if str(tmp_path).encode() in line]


def test_the_real_build_end_to_end(tmp_path: Path, groovy: dict[str, str]) -> None:
    controller = Controller(tmp_path, groovy, fake=False)
    ran = controller.run(env={"BUILDSTEP_POOL": f"dir:{tmp_path}/pool"})
    assert ran.result == "SUCCESS", ran.output
    files = {path.name: path for path in controller.archive.rglob("*") if path.is_file()}
    assert {"hello-1.0.0.oci.tar", "hello-1.0.0.tar.zst", "hello-1.0.0.imgmanifest"} <= set(files)
    first = json.loads(files["hello-1.0.0.imgmanifest"].read_text())["files"][0]
    assert first["size"] in {path.stat().st_size for path in files.values()}


# -- jobs from a file -----------------------------------------------------------------------------------------


def test_jobs_of_the_page_are_what_job_builder_makes(tmp_path: Path) -> None:
    """jenkins-job-builder makes of the page's YAML one multibranch job a component, which runs its Jenkinsfile."""
    (text,) = re.findall(r"```yaml\n(.*?)```", (REPO / "docs/how-to/jenkins.md").read_text(), re.DOTALL)
    (tmp_path / "jobs.yaml").write_text(text)
    (tmp_path / "none.ini").touch()
    tool = Path(sys.executable).with_name("jenkins-jobs")
    argv = [tool, "--conf", tmp_path / "none.ini", "test", tmp_path / "jobs.yaml", "-o", tmp_path / "out"]
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    jobs = {path.name: ET.parse(path).getroot() for path in (tmp_path / "out").iterdir()}
    assert jobs.keys() == {"image-web", "image-worker"}
    for name, job in jobs.items():
        assert job.tag.endswith("WorkflowMultiBranchProject")
        remotes = [item.text for item in job.iter("remote")]
        assert remotes == [f"https://git.example.org/{name.removeprefix('image-')}.git"]
        assert [item.text for item in job.iter("scriptPath")] == ["Jenkinsfile"]
