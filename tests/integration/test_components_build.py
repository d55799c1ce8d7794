"""The nine components of the fixture with real buildah and a real registry: built, not built again, cut off early,
failing, killed and gone on with, pushed. The bases from elsewhere are small stand-ins in the store."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from buildstep.components.dockerignore import Ignore
from buildstep.errors import ExitCode
from buildstep.formats.oci.layout import open_layout
from buildstep.formats.oci.spec import parse_manifest
from buildstep.images.publishers.index import parts_of
from buildstep.system.process import find
from buildstep.tree.scan import fingerprint_of
from tests.integration.support import LIMIT, REPOSITORY
from tests.servers.fixtures import Registry, locked_registry, registry
from tests.unit.components.componentdata import write

__all__ = ["locked_registry", "registry"]

FIXTURE = REPOSITORY / "fixtures/components"
OUTSIDE = ("ubuntu:16.04", "nvidia/cuda:8.0-runtime-ubuntu16.04", "python:3.7")
JOBS = 14


@dataclass(frozen=True)
class Place:
    """A repository, and what its builds use."""

    top: Path
    repo: Path

    @property
    def environ(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("BUILDSTEP_")},
            "PYTHONPATH": os.pathsep.join([os.fspath(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
            "BUILDSTEP_BUILDAH_ROOT": os.fspath(self.top / "store"),
            "BUILDSTEP_COMPONENTS_STATE": os.fspath(self.top / "state"),
            "BUILDSTEP_COMPONENTS_BUILDER": "buildah",
            "BUILDSTEP_POOL": f"dir:{self.top}/pool",
        }

    def argv(self, command: str, *words: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "buildstep",
            "components",
            command,
            "--root",
            os.fspath(self.repo),
            *words,
        ]

    def run(
        self, command: str, *words: str, stdin: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(command, *words), env={**self.environ, **environ}, input=stdin,
            capture_output=True, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip

    def build(self, *words: str, status: int = 0) -> dict[str, str]:
        """Build; return the state of each job."""
        done = self.run("build", "--json", *words)
        assert done.returncode == status, done.stderr
        return {row["job"]: row["state"] for row in json.loads(done.stdout)["jobs"]}

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.repo / "src" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


def buildah(top: Path, *words: str) -> None:
    store = os.fspath(top / "store")
    subprocess.run(
        ["buildah", "--root", store, "--runroot", os.path.join(store, "run"), *words],
        check=True, capture_output=True, timeout=LIMIT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The fixture, built once for all tests of this file."""
    if find("buildah") is None or os.geteuid() != 0:
        pytest.skip("needs buildah, and root")
    top = tmp_path_factory.mktemp("components")
    shutil.copytree(FIXTURE, top / "repo")
    (top / "context").mkdir()
    (top / "context/Dockerfile").write_text("FROM scratch\nCOPY name /name\n")
    for name in OUTSIDE:
        (top / "context/name").write_text(name)
        buildah(top, "build", "--quiet", "--timestamp", "0", "--tag", name, os.fspath(top / "context"))
    place = Place(top, top / "repo")
    before = fingerprint_of(place.repo)
    assert set(place.build().values()) == {"built"}
    assert fingerprint_of(place.repo) == before, "D11: a build leaves the sources as they are"
    yield place
    buildah(top, "rmi", "--all", "--force")


@pytest.fixture
def place(built: Place, tmp_path: Path) -> Place:
    """A copy of the built repository with its records, over the same store."""
    shutil.copytree(built.top / "state", tmp_path / "state")
    shutil.copytree(built.repo, tmp_path / "repo")
    (tmp_path / "store").symlink_to(built.top / "store")
    return Place(tmp_path, tmp_path / "repo")


def test_d06_a_second_run_does_nothing_and_says_so(place: Place) -> None:
    done = place.run("build")
    assert done.returncode == 0
    assert done.stdout == f"nothing to do: the results of all {JOBS} jobs are there\n"


def test_d06_a_comment_in_the_root_builds_one_image_and_stops_there(place: Place) -> None:
    place.edit("base-image/build/base-image.common.dockerfile", "FROM", "# a comment\nFROM")
    states = place.build()
    assert [name for name, state in states.items() if state == "built"] == ["base-image"]
    assert len(states) == JOBS


def test_a_change_in_the_root_reaches_what_is_made_from_it(place: Place) -> None:
    place.edit("base-image/build/locale.conf", "\n", "\nLC_ALL=C\n")
    states = place.build()
    assert {name for name, state in states.items() if state == "built"} == {
        "base-image", "cleaning-image", "zookeeper", "hadoop-run", "end-to-end-test", "yarn-frameworklauncher",
    }  # fmt: skip


def test_d06_only_what_a_change_affects_is_built_and_drawn(place: Place) -> None:
    place.edit("hadoop-ai/ai/gpu.properties", "true", "false")
    place.edit("zookeeper/zoo.cfg", "2181", "2182")
    page = place.top / "run.html"
    states = place.build("--affected-by", "src/hadoop-ai/ai", "--graph", os.fspath(page))
    assert {name for name, state in states.items() if state == "built"} == {
        "hadoop-ai:pre", "hadoop-run:pre", "hadoop-run", "end-to-end-test", "yarn-frameworklauncher",
    }  # fmt: skip
    assert {name for name, state in states.items() if state == "reused"} == {
        "base-image", "yarn-frameworklauncher:pre",
    }  # fmt: skip
    assert "The critical path is " in page.read_text()
    assert 'data-name="zookeeper"' not in page.read_text()
    assert place.build("--affected-by", "src/none-of-ours") == {}
    assert place.run("build", "--graph", "run.png").returncode == ExitCode.USAGE


def test_a_failing_hook_names_its_component_and_stops_only_what_depends_on_it(place: Place) -> None:
    place.edit("hadoop-ai/build/build-pre.sh", "set -e\n", "set -e\necho no more disk; exit 7\n")
    place.edit("zookeeper/zoo.cfg", "\n", "\n# x\n")
    junit = place.top / "junit.xml"
    done = place.run("build", "--keep-going", "--json", "--junit", os.fspath(junit))
    assert done.returncode == ExitCode.GRAPH
    states = {row["job"]: row["state"] for row in json.loads(done.stdout)["jobs"]}
    assert states["hadoop-ai:pre"] == "failed"
    assert {name for name, state in states.items() if state == "blocked"} == {
        "hadoop-run:pre", "hadoop-run", "end-to-end-test", "yarn-frameworklauncher",
    }  # fmt: skip
    assert states["zookeeper"] == "built"
    assert "hadoop-ai:pre: the hook build/build-pre.sh of hadoop-ai" in done.stderr
    assert "hadoop-ai:pre| no more disk" in done.stderr
    assert 'failures="1"' in junit.read_text()
    assert '<testcase classname="components.component" name="hadoop-ai"' in junit.read_text()


def test_a_killed_run_is_gone_on_with(place: Place) -> None:
    place.edit("base-image/build/locale.conf", "\n", "\nLC_ALL=POSIX\n")
    place.edit("end-to-end-test/build/end-to-end-test.common.dockerfile", "COPY", "LABEL slow=1\nCOPY")
    slow = place.repo / "src/zookeeper/build/build-pre.sh"
    slow.write_text("#!/bin/sh\nsleep 100\n")
    slow.chmod(0o755)
    child = subprocess.Popen(
        place.argv("build", "-j", "2"),
        env=place.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    seen = ""
    with child.stderr as stream:
        for line in stream:
            seen += line
            if "base-image: built" in line:
                break
        os.kill(child.pid, signal.SIGKILL)
        child.wait(10)
    end = time.monotonic() + 10
    while _running(os.fspath(place.top)) and time.monotonic() < end:
        time.sleep(0.05)
    assert _running(os.fspath(place.top)) == []
    slow.write_text("#!/bin/sh\n")
    states = place.build()
    assert states["base-image"] == "reused", seen
    assert states["zookeeper"] == "built"
    assert set(states.values()) <= {"built", "reused"}


def _running(words: str) -> list[str]:
    """The processes whose command line has these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in text and "pytest" not in text:
            found.append(text)
    return found


IMAGE = {"version": "1.0.0", "os": "linux", "type": "other", "description": "A test"}


def test_images_of_both_kinds_are_made_from_each_other(
    built: Place, tmp_path: Path, registry: Registry
) -> None:
    """Ours from scratch, a Dockerfile from ours, and ours again from the Dockerfile's."""
    write(tmp_path / "repo/src", {
        "root/build/root.image.json": json.dumps(
            {"name": "root", **IMAGE, "build": {"image": "scratch", "trust": True}}
        ),
        "root/build/build-pre.sh": "#!/bin/sh\nmkdir -p src/root/proto && echo root > src/root/proto/a\n",
        "app/build/app.common.dockerfile": "FROM root\nCOPY b /b\n",
        "app/b": "app",
        "top/build/top.image.json.j2": json.dumps({"name": "top", **IMAGE, "build": {"image": "app"}}),
        "top/proto/c": "top",
    })  # fmt: skip
    (tmp_path / "store").symlink_to(built.top / "store")
    place = Place(tmp_path, tmp_path / "repo")
    assert set(place.build().values()) == {"built"}
    archive = tmp_path / "top.tar"
    buildah(tmp_path, "push", "--quiet", "top", f"oci-archive:{archive}")
    names: set[str] = set()
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.startswith("blobs/") and (blob := tar.extractfile(member)):
                data = blob.read()
                if data[:2] == b"\x1f\x8b":
                    with tarfile.open(fileobj=io.BytesIO(data)) as layer:
                        names.update(layer.getnames())
    assert {"a", "b", "c"} <= {name.removeprefix("./") for name in names}
    assert set(place.build().values()) == {"reused"}
    write(tmp_path / "repo/src", {"top/proto/c": "changed"})
    assert [name for name, state in place.build().items() if state == "built"] == ["top"]
    done = place.run("push", "--registry", f"{registry.host}/kinds", "-t", "1", "--json")
    assert done.returncode == 0, done.stderr
    pushed = {row["image"]: row["digest"] for row in json.loads(done.stdout)["images"]}
    # Ours go as they were made: no builder packed their layers again.
    kept = [open_layout(path.parent, "it") for path in tmp_path.rglob("layouts/*/index.json")]
    assert {layout.find("").digest for layout in kept} == {pushed["root"], pushed["top"]}
    assert len(pushed) == 3
    # What proves an image goes along, although the directory of its build is gone.
    _, said = manifest(registry, "kinds/root", pushed["root"].replace(":", "-"))
    kinds = {row["annotations"].get("in-toto.io/predicate-type") for row in said["manifests"]}
    assert {"https://slsa.dev/provenance/v1", "https://spdx.dev/Document"} <= kinds


def test_an_m_json_for_two_platforms_is_made_from_the_image_of_each(built: Place, tmp_path: Path) -> None:
    """Nothing of them is run, so that no emulator is needed."""
    write(tmp_path / "repo", {
        "components.toml": 'platform = ["linux/amd64", "linux/arm64"]\n',
        "src/low/build/low.image.json": json.dumps({"name": "low", **IMAGE, "build": {"image": "scratch"}}),
        "src/low/proto/a": "low",
        "src/mid/build/mid.common.dockerfile": "FROM low\nCOPY b /b\n",
        "src/mid/b": "mid",
        "src/high/build/high.image.json": json.dumps({"name": "high", **IMAGE, "build": {"image": "mid"}}),
        "src/high/proto/c": "high",
    })  # fmt: skip
    (tmp_path / "store").symlink_to(built.top / "store")
    place = Place(tmp_path, tmp_path / "repo")
    # One after the other: what the builder has kept of one platform is there when the other is built.
    assert set(place.build("--jobs", "1").values()) == {"built"}
    for name in ("amd64", "arm64"):
        archive = tmp_path / f"{name}.tar"
        buildah(tmp_path, "push", "--quiet", f"high:linux-{name}", f"oci-archive:{archive}")
        (part,) = parts_of(archive)
        assert part.platform == f"linux/{name}"
        image = parse_manifest(part.layout.read(part.entry), part.entry, name)
        assert len(image.layers) == 3
    assert set(place.build().values()) == {"reused"}


IGNORES = {
    "globs": "**/*.log\n!d/e/g.log\n*.md\n",
    "back": "*\n!d\nd/e\n!d/e/*.txt\n",
    "below": "d/**\n!d/deep/*\n/build/\n",
    "odd": "d/[ef]/?.txt\n# a comment\n\n  k.md  \n\\!x\n",
}
CONTENT = (
    "a.txt", "x.log", "k.md", "!x", "d/k.md", "d/x.log", "d/e/f.txt", "d/e/g.log", "d/f/f.txt", "d/deep/y",
)  # fmt: skip


def test_d20_what_a_dockerignore_leaves_out_is_in_no_image_and_builds_none_again(
    built: Place, tmp_path: Path
) -> None:
    """buildah leaves out what we take for left out: of the context's file, and of one for a Dockerfile."""
    for name, text in IGNORES.items():
        write(tmp_path / "repo/src" / name, dict.fromkeys(CONTENT, name))
        write(tmp_path / "repo/src" / name, {
            f"build/{name}.common.dockerfile": "FROM scratch\nCOPY . /c/\n", ".dockerignore": text,
        })  # fmt: skip
    write(tmp_path / "repo/src", {
        "globs/build/own.common.dockerfile": "FROM scratch\nCOPY . /c/\n",
        "globs/build/own.common.dockerfile.dockerignore": "d\nk.md\n",
    })  # fmt: skip
    (tmp_path / "store").symlink_to(built.top / "store")
    place = Place(tmp_path, tmp_path / "repo")
    assert set(place.build().values()) == {"built"}
    for name, component in [*((name, name) for name in IGNORES), ("own", "globs")]:
        file = f"build/{name}.common.dockerfile"
        own = tmp_path / "repo/src" / component
        text = (own / (f"{file}.dockerignore" if name == "own" else ".dockerignore")).read_text()
        files = {path.relative_to(own).as_posix() for path in own.rglob("*") if path.is_file()}
        ignore = Ignore(text)
        assert files_of(tmp_path, name) == {path for path in files if not ignore(path)}
    write(tmp_path / "repo/src", {"globs/d/x.log": "changed", "back/k.md": "changed"})
    assert {name for name, state in place.build().items() if state == "built"} == set()
    write(tmp_path / "repo/src", {"globs/x.log": "changed", "back/d/k.md": "changed"})
    assert {name for name, state in place.build().items() if state == "built"} == {"own", "back"}


def files_of(top: Path, image: str) -> set[str]:
    """The files below /c in an image."""
    layout = top / f"{image}.layout"
    buildah(top, "push", "--quiet", image, f"oci:{layout}")
    found = set()
    for path in (layout / "blobs/sha256").iterdir():
        if path.read_bytes()[:2] == b"\x1f\x8b":
            with tarfile.open(path) as tar:
                found |= {item.name.removeprefix("c/") for item in tar if item.isfile()}
    return found


def test_d20_images_for_several_platforms_are_built_and_pushed_as_one(
    built: Place, tmp_path: Path, registry: Registry
) -> None:
    """Of another platform too, as nothing is run; from bases of the graph, and from elsewhere."""
    write(tmp_path / "repo/src", {
        "root/build/root.common.dockerfile": "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n",
        "root/amd64": "x86", "root/arm64": "arm",
        "app/build/app.common.dockerfile": f"FROM root\nCOPY --from={registry.host}/far/base:1 /arch /far\n",
    })  # fmt: skip
    (tmp_path / "repo/components.toml").write_text('platform = ["linux/amd64", "linux/arm64"]\n')
    conf = tmp_path / "registries.conf"
    conf.write_text(
        f'unqualified-search-registries = []\n[[registry]]\nlocation = "{registry.host}"\ninsecure = true\n'
    )
    more = {"CONTAINERS_REGISTRIES_CONF": os.fspath(conf)}
    (tmp_path / "store").symlink_to(built.top / "store")
    place = Place(tmp_path, tmp_path / "repo")
    words = ["--registry", f"{registry.host}/far", "-t", "1"]
    # What is "elsewhere" is made here first.
    copy = Place(tmp_path, tmp_path / "other")
    shutil.copytree(tmp_path / "repo/src/root", tmp_path / "other/src/base")
    (copy.repo / "src/base/build/root.common.dockerfile").rename(
        copy.repo / "src/base/build/base.common.dockerfile"
    )
    (copy.repo / "components.toml").write_text('platform = ["linux/amd64", "linux/arm64"]\n')
    assert len(copy.build()) == 2
    assert copy.run("push", *words).returncode == 0
    done = place.run("build", "--json", **more)
    assert done.returncode == 0, done.stderr
    states = {row["job"]: row["state"] for row in json.loads(done.stdout)["jobs"]}
    assert states == {
        f"{name}@linux/{arch}": "built" for name in ("root", "app") for arch in ("amd64", "arm64")
    }
    again = place.run("build", **more)
    assert again.stdout == "nothing to do: the results of all 4 jobs are there\n"
    pushed = place.run("push", *words, "--json", **more)
    assert pushed.returncode == 0, pushed.stderr
    rows = {row["image"]: row for row in json.loads(pushed.stdout)["images"]}
    _, index = manifest(registry, "far/app", "1")
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == ["amd64", "arm64"]
    for entry in index["manifests"]:
        assert (
            entry["digest"]
            == rows["app"]["platforms"][f"linux/{entry['platform']['architecture']}"]["digest"]
        )
    for arch, text in (("amd64", "x86"), ("arm64", "arm")):
        argv = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", "--override-arch", arch,
                f"docker://{registry.host}/far/app:1", f"oci:{tmp_path}/{arch}"]  # fmt: skip
        subprocess.run(argv, check=True, capture_output=True, timeout=LIMIT)
        assert content_of(tmp_path / arch) == {"arch": text, "far": text}
    write(tmp_path / "repo/src", {"root/arm64": "other"})
    changed = place.run("build", "--json", **more)
    states = {row["job"]: row["state"] for row in json.loads(changed.stdout)["jobs"]}
    assert {name for name, state in states.items() if state == "reused"} == {"app@linux/amd64"}
    write(tmp_path / "repo/src", {"app/build/app.common.dockerfile": "FROM root\nRUN x\n"})
    (tmp_path / "repo/components.toml").write_text('platform = ["linux/amd64", "linux/s390x"]\n')
    refused = place.run("build", **more)
    if not Path("/proc/sys/fs/binfmt_misc/qemu-s390x").exists():
        assert refused.returncode == ExitCode.GRAPH
        assert "app@linux/s390x: RUN for linux/s390x" in refused.stderr
        assert "building:" not in refused.stderr


def content_of(layout: Path) -> dict[str, str]:
    """The files at the top of an image, with what is in them."""
    found = {}
    for path in (layout / "blobs/sha256").iterdir():
        if path.read_bytes()[:2] == b"\x1f\x8b":
            with tarfile.open(path) as tar:
                for item in tar:
                    if item.isfile() and (stream := tar.extractfile(item)):
                        found[item.name] = stream.read().decode()
    return found


def manifest(registry: Registry, name: str, tag: str) -> tuple[str, dict[str, Any]]:
    request = urllib.request.Request(
        f"http://{registry.host}/v2/{name}/manifests/{tag}",
        headers={
            "Accept": "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
        },
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        return reply.headers["Docker-Content-Digest"], json.load(reply)


def test_d17_images_are_pushed_by_digest_with_all_their_tags(place: Place, registry: Registry) -> None:
    result = place.top / "result.json"
    words = ["--registry", f"{registry.host}/team", "-t", "v1", "-t", "latest", "--result", os.fspath(result)]
    done = place.run("push", *words)
    assert done.returncode == 0, done.stderr
    rows = json.loads(result.read_text())["images"]
    assert len(rows) == 11
    for row in rows:
        for tag in ("v1", "latest"):
            digest, found = manifest(registry, f"team/{row['image']}", tag)
            assert (digest, found["config"]["digest"]) == (row["digest"], row["id"])


def test_d17_what_is_not_built_is_not_pushed(place: Place, registry: Registry) -> None:
    place.edit("zookeeper/zoo.cfg", "\n", "\n# not built yet\n")
    done = place.run("push", "--registry", f"{registry.host}/stale")
    assert done.returncode == ExitCode.PUBLISH
    assert "not built from the sources as they are now: zookeeper" in done.stderr
    with urllib.request.urlopen(f"http://{registry.host}/v2/_catalog", timeout=10) as reply:
        assert [name for name in json.load(reply)["repositories"] if name.startswith("stale/")] == []
    only = place.run("push", "--registry", f"{registry.host}/stale", "-i", "base-image", "--json")
    assert [row["image"] for row in json.loads(only.stdout)["images"]] == ["base-image"]


def test_d03_a_password_comes_by_stdin_or_file_and_is_shown_nowhere(
    place: Place, locked_registry: Registry
) -> None:
    words = ["--registry", locked_registry.host, "-i", "base-image", "--username", locked_registry.user]
    secret = place.top / "secret"
    secret.write_text(f"{locked_registry.password}\n")
    by_file = place.run("push", *words, "--password-file", os.fspath(secret))
    assert by_file.returncode == 0, by_file.stderr
    by_stdin = place.run("push", *words, "--password-stdin", stdin=f"{locked_registry.password}\n")
    assert by_stdin.returncode == 0, by_stdin.stderr
    wrong = place.run("push", *words, "--password-stdin", stdin="a wrong word\n")
    assert wrong.returncode == ExitCode.PUBLISH
    assert "a wrong word" not in wrong.stderr + wrong.stdout
    assert locked_registry.password not in by_file.stderr + by_file.stdout + by_stdin.stderr
    assert place.run("push", *words).returncode == ExitCode.USAGE
