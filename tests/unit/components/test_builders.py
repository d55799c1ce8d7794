"""Command lines of the builders, by stand-ins on PATH that write down what they are called with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep.components.builders import Buildah, Docker, Recipe, open_builder
from buildstep.components.interface import GraphError
from buildstep.components.settings import BuildOptions
from buildstep.errors import ToolMissing, UsageError
from buildstep.system import process

pytestmark = pytest.mark.commands("buildah", "docker", "tar", "skopeo")

ID = "sha256:" + "a" * 64
BASE = "sha256:" + "b" * 64

STUB = """\
#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
if "--iidfile" in sys.argv:
    open(sys.argv[sys.argv.index("--iidfile") + 1], "w").write({iid!r})
if "images" in sys.argv or "inspect" in sys.argv:
    print({iid!r})
sys.exit({status})
"""


class Stubs:
    """Programs that record their arguments. status: how they end; iid: the image that they report."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder / "bin", folder / "log"
        self.folder.mkdir()

    def make(self, *names: str, status: int = 0, iid: str = ID) -> None:
        for name in names:
            path = self.folder / name
            path.write_text(
                STUB.format(python=sys.executable, log=os.fspath(self.log), status=status, iid=iid)
            )
            path.chmod(0o755)

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(row) for row in self.log.read_text().splitlines()]


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stubs:
    """Stand-ins, and no real builder on PATH."""
    monkeypatch.setattr(process, "SAFE_PATH", "/nowhere")
    found = Stubs(tmp_path)
    monkeypatch.setenv("PATH", os.fspath(found.folder))
    monkeypatch.setattr(process, "find", lambda tool, path=None: _in(found.folder, tool))
    return found


def _in(folder: Path, tool: str) -> str | None:
    path = folder / tool
    return os.fspath(path) if path.exists() else None


def run(argv: Sequence[str], env: Mapping[str, str], what: str) -> None:
    process.run(argv, env=env, what=what)


RECIPE = Recipe(
    name="web",
    file=Path("/s/build/web.common.dockerfile"),
    context=Path("/s"),
    bases={"base:latest": BASE},
    options=BuildOptions(
        arguments={"A": "1 2"}, labels={"l": "x"}, platform="linux/arm64", target="t",
        cache_from=("r/x",), secrets={"id": Path("/f")}, no_cache=True,
    ),
)  # fmt: skip
SHARED = [
    "--build-arg", "A=1 2", "--label", "l=x", "--secret", "id=id,src=/f", "--cache-from", "r/x",
    "--platform", "linux/arm64", "--target", "t", "--no-cache",
]  # fmt: skip


def contains(argv: list[str], words: list[str]) -> bool:
    return any(argv[at : at + len(words)] == words for at in range(len(argv)))


@pytest.mark.parametrize("kind", [Buildah, Docker])
def test_d20_options_of_an_image_reach_the_builder(stubs: Stubs, kind: type[Buildah | Docker]) -> None:
    stubs.make("buildah", "docker")
    builder = kind(os.environ)
    assert builder.build(RECIPE, run) == ID
    assert contains(stubs.calls[-1], SHARED)
    assert stubs.calls[-1][-5:] == ["--tag", "web", "--file", "/s/build/web.common.dockerfile", "/s"]
    assert builder.images() == {ID}


def test_a_base_of_the_graph_is_pinned_by_its_id_and_never_fetched(stubs: Stubs) -> None:
    stubs.make("buildah", "docker")
    Buildah(os.environ).build(RECIPE, run)
    call = stubs.calls[-1]
    assert contains(call, ["--build-context", "base:latest=container-image://" + "b" * 64])
    assert "--pull-never" in call
    assert contains(call, ["--timestamp", "0"])
    Docker(os.environ).build(RECIPE, run)
    assert ["docker", "tag", BASE, "base:latest"] in stubs.calls
    assert "--pull" not in stubs.calls[-1]


def test_an_image_is_looked_up_and_fetched_by_its_reference(stubs: Stubs) -> None:
    stubs.make("buildah", "docker")
    for kind in (Buildah, Docker):
        builder = kind(os.environ)
        assert builder.resolve("ubuntu:16.04", "") == ID
        builder.fetch("ubuntu:16.04", "", run)
        assert stubs.calls[-1][-4:] == ["pull", "--quiet", "--", "ubuntu:16.04"]
    stubs.make("buildah", status=1)
    assert Buildah(os.environ).resolve("gone", "") == ""


def test_an_image_of_an_older_docker_engine_is_converted(stubs: Stubs, tmp_path: Path) -> None:
    stubs.make("docker", "tar")
    builder = Docker(os.environ)
    (tmp_path / "image.tar").touch()  # what the engine would write
    with pytest.raises(ToolMissing, match="skopeo"):
        builder.save(ID, tmp_path / "image", run)
    stubs.make("skopeo")
    builder.save(ID, tmp_path / "image", run)
    assert stubs.calls[-1][:2] == ["skopeo", "copy"]
    assert stubs.calls[-1][-1] == f"oci:{tmp_path / 'image'}"
    assert not (tmp_path / "image.tar").exists()


def test_the_ignore_file_of_a_dockerfile_counts_with_every_builder(stubs: Stubs) -> None:
    stubs.make("buildah", "docker")
    own = replace(RECIPE, ignore=Path("/s/build/web.common.dockerfile.dockerignore"))
    Buildah(os.environ).build(own, run)
    assert contains(stubs.calls[-1], ["--ignorefile", "/s/build/web.common.dockerfile.dockerignore"])
    seen: list[str | None] = []

    def look(argv: Sequence[str], env: Mapping[str, str], what: str) -> None:
        seen.append(env.get("DOCKER_BUILDKIT"))
        run(argv, env, what)

    Docker({**os.environ, "DOCKER_BUILDKIT": "0"}).build(replace(own, ignore=Path("/s/.dockerignore")), look)
    Docker(os.environ).build(own, look)
    assert seen == ["0", "0", None, "1"]  # tagging a base, and building
    with pytest.raises(GraphError, match="needs BuildKit, and DOCKER_BUILDKIT is 0"):
        Docker({**os.environ, "DOCKER_BUILDKIT": "0"}).build(own, run)


def test_d04_a_build_never_logs_in(stubs: Stubs) -> None:
    stubs.make("buildah", "docker")
    for kind in (Buildah, Docker):
        kind(os.environ).build(RECIPE, run)
    assert [call for call in stubs.calls if "login" in call] == []


def test_the_first_builder_that_is_there_is_taken(stubs: Stubs) -> None:
    with pytest.raises(ToolMissing, match="builds Dockerfiles") as caught:
        open_builder("", os.environ)
    assert "buildah" in caught.value.detail
    stubs.make("docker")
    assert open_builder("", os.environ).name == "docker"
    stubs.make("buildah")
    assert open_builder("", os.environ).name == "buildah"
    with pytest.raises(UsageError) as wrong:
        open_builder("dokcer", os.environ)
    assert wrong.value.hint == "did you mean docker?"


def test_a_docker_client_without_an_engine_is_no_builder(stubs: Stubs) -> None:
    stubs.make("docker", status=1)
    with pytest.raises(ToolMissing, match="no engine"):
        open_builder("docker", os.environ)


def test_a_builder_that_reports_no_image_is_not_believed(stubs: Stubs) -> None:
    stubs.make("buildah", iid="latest")
    with pytest.raises(GraphError, match="no image id"):
        Buildah(os.environ).build(RECIPE, run)
