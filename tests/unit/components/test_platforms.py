"""Images for several platforms: each is a node of the graph, and all are pushed as one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from buildstep.components.builders import Recipe, Run
from buildstep.components.emulation import foreign_runs, refuse
from buildstep.components.graph import Graph
from buildstep.components.interface import Built, GraphError
from buildstep.components.plan import select
from buildstep.components.push import Access, chosen, push, result
from buildstep.components.references import find_image, store_name
from buildstep.components.settings import Flags, Registry, Settings, load
from buildstep.errors import PublishError, SpecError
from buildstep.events import Bus
from buildstep.formats.oci.spec import OCI_INDEX, OciPlatform
from buildstep.rootfs.emulation import runs_here
from tests.servers.layouts import layer, make_layout
from tests.servers.registry import RegistryServer
from tests.unit.components.repositories import found, images, write

AMD, ARM = "linux/amd64", "linux/arm64"


def graph_of(root: Path, toml: str) -> Graph:
    (root / "components.toml").write_text(toml)
    options = load(root).read_options()
    return Graph(found(root, **{name: getattr(options, name) for name in options.__slots__}), options)


def test_d20_an_image_for_several_platforms_is_a_job_for_each(tmp_path: Path) -> None:
    images(
        tmp_path, base="FROM scratch\nCOPY build /b", child="FROM base\nARG TARGETARCH\nCOPY --from=x-$TARGETARCH / /",
        plain="FROM base:latest", x_arm64="FROM scratch",
    )  # fmt: skip
    made = graph_of(
        tmp_path,
        f'[images.base]\nplatform = ["{AMD}", "{ARM}"]\n[images.child]\nplatform = ["{ARM}", "{AMD}"]\n',
    )
    assert set(made.jobs) == {f"{name}@{p}" for name in ("base", "child") for p in (AMD, ARM)} | {
        "plain",
        "x-arm64",
    }
    assert made.jobs[f"child@{ARM}"].needs == (f"base@{ARM}", "x-arm64")
    assert made.jobs[f"child@{AMD}"].needs == (f"base@{AMD}",)
    assert made.external[f"child@{AMD}"] == ("x-amd64",)
    here = str(OciPlatform.here())
    assert made.jobs["plain"].needs == ((f"base@{here}",) if here in (AMD, ARM) else ())
    assert select(made, ["child"]).chosen >= {f"child@{AMD}", f"child@{ARM}", f"base@{ARM}"}
    assert store_name(f"base@{ARM}") == "base:linux-arm64"
    assert store_name("base") == "base"


def test_a_base_that_is_not_built_for_a_platform_is_said(tmp_path: Path) -> None:
    images(tmp_path, base="FROM scratch", child="FROM base")
    made = graph_of(
        tmp_path, f'[images.base]\nplatform = ["{AMD}", "{ARM}"]\n[images.child]\nplatform = "linux/s390x"\n'
    )
    assert made.external["child"] == ("base",)
    assert made.notes == [
        f"src/child/build/child.common.dockerfile:1: base is built here for {AMD}, {ARM} only: base is taken from elsewhere"
    ]


def test_one_platform_is_no_set_and_the_command_line_wins(tmp_path: Path) -> None:
    (tmp_path / "components.toml").write_text(
        f'platform = ["{AMD}", "{ARM}"]\n[images.web]\nplatform = ["{ARM}"]\n'
    )
    settings = load(tmp_path)
    assert settings.options("web").platform == ARM
    assert settings.options("other").platforms == (AMD, ARM)
    assert settings.options(f"other@{ARM}").platform == ARM
    assert settings.options(f"other@{ARM}").inputs() == {"platform": ARM}
    assert load(tmp_path, Flags(platforms=[AMD])).options("web").platform == AMD
    with pytest.raises(SpecError, match="command line"):
        load(tmp_path, Flags(platforms=["arm"]))
    (tmp_path / "components.toml").write_text('platform = ["linux/amd64", "arm"]\n')
    with pytest.raises(SpecError):
        load(tmp_path)


def test_an_m_json_is_built_for_each_platform_and_says_what_it_runs(tmp_path: Path) -> None:
    def kept(name: str, **build: object) -> None:
        write(
            tmp_path,
            {f"{name}/build/{name}.image.json": json.dumps({"build": {"image": "scratch", **build}})},
        )

    kept("a")
    kept("b", packages=["x"])
    kept("c", image="mmdebstrap:bookworm")
    made = graph_of(tmp_path, f'platform = ["{AMD}", "{ARM}"]\n')
    assert {name for name in made.jobs if name.endswith(ARM)} == {f"{name}@{ARM}" for name in "abc"}
    jobs = foreign_runs(list(made.jobs.values()), lambda platform: str(platform) == AMD)
    assert sorted(job.name for job in jobs) == [f"b@{ARM}", f"c@{ARM}"]
    with pytest.raises(GraphError) as error:
        refuse(jobs)
    assert f"b@{ARM}: packages or commands for {ARM}" in error.value.detail
    with pytest.raises(SpecError) as caught:
        graph_of(tmp_path, 'platform = "windows/amd64"\n')
    assert "an m.json is built for linux" in caught.value.faults[0].message


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("FROM scratch\nCOPY a /", False),
        ("FROM scratch\nRUN a", True),
        ("FROM --platform=$BUILDPLATFORM go AS b\nRUN build\nFROM b AS c\nRUN x\nFROM scratch\nCOPY --from=c / /", False),
        ("FROM --platform=$BUILDPLATFORM go AS b\nFROM --platform=$TARGETPLATFORM x\nRUN a", True),
    ],
)  # fmt: skip
def test_what_runs_programs_of_another_platform_is_refused_where_they_cannot_run(
    tmp_path: Path, text: str, runs: bool
) -> None:
    images(tmp_path, a=text)
    made = graph_of(tmp_path, 'platform = ["linux/s390x", "linux/ppc64le"]\n')
    jobs = foreign_runs(list(made.jobs.values()))
    there = [name for name in ("ppc64le", "s390x") if not runs_here(OciPlatform.parse(f"linux/{name}"))]
    assert [job.name for job in jobs] == [f"a@linux/{name}" for name in there if runs]
    if jobs:
        with pytest.raises(GraphError, match="cannot run what") as caught:
            refuse(jobs)
        assert f"a@linux/{there[0]}: RUN for linux/{there[0]}" in caught.value.detail


def test_an_emulator_that_the_kernel_knows_is_enough(tmp_path: Path) -> None:
    here, arm = OciPlatform.parse(AMD), OciPlatform.parse(ARM)
    assert runs_here(here, here=here)
    assert runs_here(OciPlatform.parse("linux/386"), here=here)
    assert not runs_here(arm, here=here, binfmt=tmp_path)
    (tmp_path / "qemu-aarch64").write_text("disabled\n")
    assert not runs_here(arm, here=here, binfmt=tmp_path)
    (tmp_path / "qemu-aarch64").write_text("enabled\ninterpreter /usr/libexec/qemu\n")
    assert runs_here(arm, here=here, binfmt=tmp_path)


def test_a_reference_means_the_image_of_its_own_platform() -> None:
    names = [f"base@{AMD}", f"base@{ARM}", "plain"]
    options = Settings().read_options()
    assert find_image("localhost/base:latest", names, options, ARM) == f"base@{ARM}"
    assert find_image("base", names, options, "linux/s390x") is None
    assert find_image("plain", names, options, ARM) == "plain"
    assert find_image(f"base@{ARM}", names, options, ARM) is None


class Shelf:
    """A builder that only has images: each a layer with its own id in it."""

    name = "shelf"

    def save(self, image: str, layout: Path, run: Run) -> None:
        make_layout(layout, [layer({"id": image.encode()})])

    def build(self, recipe: Recipe, run: Run) -> str:
        raise AssertionError


def test_d20_all_platforms_are_pushed_as_one_image(tmp_path: Path) -> None:
    plan: dict[str, Built | None] = {
        f"web@{platform}": Built(job=f"web@{platform}", key="k", output=f"sha256:{hashlib.sha256(platform.encode()).hexdigest()}")
        for platform in (AMD, ARM)
    }  # fmt: skip
    access = Access(builder=Shelf(), run=lambda *_: None, environ={}, bus=Bus())  # type: ignore[arg-type]
    with RegistryServer() as server:
        rows = push(
            chosen(("web",), plan), Registry(host=server.host, tags=("v1",)), access, lambda _text: None
        )
        (row,) = result(rows)["images"]
        data, kind = server.content["manifests/v1"]
    assert kind == OCI_INDEX
    assert row["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert (row["image"], row["tags"], row["id"]) == ("web", ["v1"], "")
    listed = {entry["platform"]["architecture"]: entry["digest"] for entry in json.loads(data)["manifests"]}
    assert listed == {"amd64": row["platforms"][AMD]["digest"], "arm64": row["platforms"][ARM]["digest"]}
    assert listed["amd64"] != listed["arm64"]
    with pytest.raises(PublishError, match=f"not built from the sources as they are now: web@{ARM}"):
        chosen(("web",), {**plan, f"web@{ARM}": None})
