"""The examples of the pages for GitHub and GitLab, run as a runner does it: each job in a fresh checkout, with a
cache that keeps files and nothing else of them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from buildstep.system.tools import DEBIAN
from tests.checkouts import REPO
from tests.integration.conftest import demand

STUBS = {
    "sudo": '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n',
    "apt-get": '#!/bin/sh\necho "$*" >>"$APT_LOG"\n',
}
"""Programs of a runner that would change this machine. Packages are here already: the names are looked at."""


@dataclass
class Runner:
    """A machine for one job after another. Nothing but the cache and artifacts goes from one to the next."""

    top: Path
    source: Path
    log: Path
    cache: dict[str, Path] = field(default_factory=dict)
    jobs: int = 0

    def environ(self, **more: str) -> dict[str, str]:
        """A pool of its own for each job, as each is on a fresh machine."""
        own = self.top / f"machine{self.jobs}"
        return {
            "PATH": f"{self.top / 'stubs'}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(own),
            "BUILDSTEP_POOL": f"overlay:{own / 'pool'}",
            "BUILDSTEP_VENV": sys.prefix,
            "APT_LOG": str(self.log),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{REPO}/.insteadOf",
            "GIT_CONFIG_VALUE_0": "https://git.example.org/buildstep.git",
            **more,
        }

    def checkout(self) -> Path:
        """A workspace with the component, on a machine where nothing else is."""
        self.jobs += 1
        (self.top / f"machine{self.jobs}").mkdir()
        workspace = self.top / f"workspace{self.jobs}"
        shutil.copytree(self.source, workspace)
        return workspace

    def sh(self, script: str, workspace: Path, **environ: str) -> str:
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            cwd=workspace, env=self.environ(**environ), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def restore(self, workspace: Path, paths: list[str]) -> None:
        """Unpack what an earlier job left, as an ordinary user's zip file has it."""
        for path in paths:
            if path in self.cache:
                with zipfile.ZipFile(self.cache[path]) as archive:
                    archive.extractall(workspace)

    def save(self, workspace: Path, paths: list[str]) -> None:
        for path in paths:
            kept = self.top / f"{path.replace('/', '_')}{self.jobs}.zip"
            with zipfile.ZipFile(kept, "w") as archive:
                for file in [workspace / path, *sorted((workspace / path).rglob("*"))]:
                    if file.is_file() and not file.is_symlink():
                        archive.write(file, file.relative_to(workspace))
            self.cache[path] = kept


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """With a component whose base has what caches lose: devices, links, owners, attributes."""
    demand("root", "namespaces", "overlay", "rsync")
    root, source, stubs = tmp_path / "root", tmp_path / "source", tmp_path / "stubs"
    for path in (root / "etc", root / "dev", source / "proto/srv", stubs):
        path.mkdir(parents=True)
    (root / "etc/os-release").write_text("ID=tiny\n")
    (root / "etc/link").symlink_to("os-release")
    os.mknod(root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.setxattr(root / "etc/os-release", "user.a", b"b")
    os.chown(root / "etc/os-release", 7, 8)
    (source / "proto/srv/page").write_text("hello\n")
    (source / "m.json").write_text(
        '{"name": "web", "version": "1", "os": "linux", "build": {"image": "tar:base.tar"}}'
    )
    subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=*", "-cf", source / "base.tar", "-C", root, "."], check=True
    )
    for name, text in STUBS.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    return Runner(tmp_path, source, tmp_path / "apt.log")


def page(name: str) -> Any:
    text = (REPO / f"docs/how-to/{name}.md").read_text()
    (found,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    return yaml.load(found, yaml.BaseLoader)


def judge_packages(log: Path) -> None:
    """What the page installs is what the project says it needs, under names that Debian has."""
    installed = {word for line in log.read_text().splitlines() for word in line.split() if "install" in line}
    known = {*DEBIAN.values(), *(REPO / "packages.txt").read_text().split()}
    assert installed - {"install", "-y", "update"} <= known
    assert {"rsync", "bubblewrap", "mmdebstrap", "zstd"} <= installed


def judge_image(folder: Path) -> None:
    (archive,) = folder.glob("*.oci.tar")
    assert tarfile.is_tarfile(archive)
    (record,) = folder.glob("*.buildrecord.json")
    assert '"ok": true' in record.read_text()


REUSED = "import reused"


# -- GitLab ---------------------------------------------------------------------------------------------------


def gitlab_job(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    job = document[name]
    return {**document[job["extends"]], **job}


def run_gitlab(runner: Runner, name: str, artifacts: Path | None = None, **environ: str) -> tuple[str, Path]:
    job = gitlab_job(page("gitlab"), name)
    workspace = runner.checkout()
    cached = job["cache"]["paths"] if job["cache"] else []
    runner.restore(workspace, cached)
    if artifacts is not None:
        shutil.copytree(artifacts, workspace / "bits")
    script = "\n".join([*job["before_script"], *job["script"]])
    out = runner.sh(
        script.replace("/opt/buildstep", str(runner.top / f"machine{runner.jobs}/opt")), workspace,
        CI_COMMIT_REF_NAME="main", **environ,
    )  # fmt: skip
    runner.save(workspace, cached)
    return out, workspace


def test_gitlab(runner: Runner) -> None:
    assert page("gitlab")["stages"] == ["image", "publish"]
    out, _ = run_gitlab(runner, "image")
    assert REUSED not in out
    assert list(runner.cache) == ["pool.tar.zst"]
    out, workspace = run_gitlab(runner, "image")
    assert REUSED in out, "the base came out of the cache, whole"
    judge_image(workspace / "bits")
    judge_packages(runner.log)
    shop = runner.top / "shop"
    shop.mkdir()
    run_gitlab(runner, "publish", workspace / "bits", PUBLISH_TO=f"dir:{shop}")
    assert list(shop.rglob("*.imgmanifest")) or list(shop.rglob("manifest"))


# -- GitHub ---------------------------------------------------------------------------------------------------

EXPRESSIONS = {
    "runner.arch": "X64",
    "hashFiles('m.json')": "0123",
    "github.head_ref || github.ref_name": "main",
}


def put_in(text: str) -> str:
    return re.sub(r"\$\{\{ (.*?) \}\}", lambda found: EXPRESSIONS[found[1]], text)


def run_github(runner: Runner) -> tuple[str, Path, Path]:
    """Returns what the steps printed, the workspace, and what was uploaded."""
    (job,) = page("github-actions")["jobs"].values()
    workspace, printed, saves = runner.checkout(), "", []
    uploaded = Path()
    for step in job["steps"]:
        given = step.get("with", {})
        match step.get("uses", "run").partition("@")[0]:
            case "actions/checkout" if given:
                subprocess.run(
                    ["git", "clone", "-q", f"file://{REPO}", workspace / given["path"]], check=True
                )
            case "actions/checkout":
                pass
            case "actions/cache":
                assert put_in(given["key"]).startswith(put_in(given["restore-keys"]))
                runner.restore(workspace, [given["path"]])
                saves.append(given["path"])
            case "actions/upload-artifact":
                uploaded = workspace / given["path"]
            case "run":
                assert "${{" not in step["run"], "what comes from outside goes through env:"
                environ = {name: put_in(value) for name, value in step.get("env", {}).items()}
                printed += runner.sh(step["run"], workspace, **environ)
            case other:
                pytest.fail(f"an action that is not known here: {other}")
    runner.save(workspace, saves)
    return printed, workspace, uploaded


def test_github(runner: Runner) -> None:
    out, _, _ = run_github(runner)
    assert REUSED not in out
    out, _, uploaded = run_github(runner)
    assert REUSED in out
    judge_image(uploaded)
    judge_packages(runner.log)
