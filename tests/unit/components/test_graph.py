"""The graph: edges, levels, order, what a change reaches, and cycles by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildstep.components.contents import Contents
from buildstep.components.discover import Repository
from buildstep.components.graph import Graph
from buildstep.components.inputs import Inputs
from buildstep.components.interface import Component, Dependency, GraphError, Image, Reference
from tests.unit.components.repositories import NINE, graph, images, write


@pytest.fixture(scope="module")
def nine() -> Graph:
    return graph(NINE)


def components(graph: Graph, jobs: set[str]) -> set[str]:
    return {graph.jobs[name].component for name in jobs}


def test_the_edges_of_the_nine_components(nine: Graph) -> None:
    assert nine.edges == [
        ("base-image", "cleaning-image"),
        ("base-image", "hadoop-run"),
        ("base-image", "zookeeper"),
        ("hadoop-ai", "hadoop-run"),
        ("hadoop-run", "end-to-end-test"),
        ("hadoop-run", "yarn-frameworklauncher"),
    ]
    assert nine.external["job-exporter"] == ("python:3.7",)


def test_the_levels_of_the_nine_components(nine: Graph) -> None:
    assert nine.levels() == [
        ["base-image", "drivers", "hadoop-ai", "job-exporter"],
        ["cleaning-image", "hadoop-run", "zookeeper"],
        ["end-to-end-test", "yarn-frameworklauncher"],
    ]


def test_what_a_component_of_the_nine_needs(nine: Graph) -> None:
    upstream = nine.upstream(nine.of_components(["end-to-end-test"]))
    assert components(nine, upstream) == {"base-image", "hadoop-ai", "hadoop-run"}


def test_d06_a_change_reaches_what_is_made_from_it_and_nothing_else(nine: Graph) -> None:
    def reached(name: str) -> set[str]:
        changed = nine.of_components([name])
        return components(nine, changed | nine.downstream(changed))

    assert reached("hadoop-ai") == {"hadoop-ai", "hadoop-run", "end-to-end-test", "yarn-frameworklauncher"}
    assert reached("base-image") == {
        "base-image", "cleaning-image", "zookeeper", "hadoop-run", "end-to-end-test", "yarn-frameworklauncher",
    }  # fmt: skip
    assert reached("job-exporter") == {"job-exporter"}


def test_a_change_can_be_followed_one_step_only(nine: Graph) -> None:
    changed = nine.of_components(["hadoop-ai"])
    assert components(nine, nine.downstream(changed, "direct")) == {"hadoop-run"}
    assert nine.downstream(changed, "none") == set()


def test_hooks_and_images_are_jobs_of_their_own(nine: Graph) -> None:
    assert nine.jobs["hadoop-run:pre"].needs == ("hadoop-ai:pre",)
    assert nine.jobs["hadoop-run"].needs == ("base-image", "hadoop-ai:pre", "hadoop-run:pre")
    assert nine.jobs["yarn-frameworklauncher:pre"].needs == ()
    assert nine.reasons["base-image", "hadoop-run"] == (
        "src/hadoop-run/build/hadoop-run.common.dockerfile:1 FROM base-image"
    )


def test_a_hook_that_runs_after_comes_before_those_who_want_products(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x", b="FROM a")
    write(tmp_path, {"a/build/build-post.sh": "", "b/build/component.dep": "a", "c/build/build-post.sh": ""})
    jobs = graph(tmp_path).jobs
    assert {name: job.needs for name, job in jobs.items()} == {
        "a": (), "a:post": ("a",), "b": ("a", "a:post"), "c:post": (),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "edge"),
    [
        ("FROM a", True),
        ("FROM a:latest", True),
        ("from a", True),
        ("FROM --platform=linux/amd64 a AS x", True),
        ("ARG V=a\nFROM $V", True),
        ("ARG V=b\nFROM ${V:+a}", True),
        ("FROM x\nCOPY --from=a / /", True),
        ("FROM x\nRUN --mount=type=bind,from=a,target=/a ls /a", True),
        ("FROM x AS a\nFROM a", False),
        ("FROM x AS a\nFROM y\nCOPY --from=a / /", False),
        ("FROM x\nRUN <<EOF\nFROM a\nEOF", False),
        ("FROM x\nRUN echo \\\n# a comment\n  FROM a", False),
        ("FROM localhost/a", True),
        ("FROM registry.example:5000/team/a:7", True),
        ("FROM registry.example:5000/other/a", False),
        ("FROM a:3.2", False),
        ("FROM a@sha256:0", False),
        ("FROM A", False),
        ("FROM x/a", False),
    ],
)
def test_d07_a_tag_or_a_registry_says_whether_the_image_built_here_is_meant(
    tmp_path: Path, text: str, edge: bool
) -> None:
    images(tmp_path, a="FROM x", b=text)
    made = graph(tmp_path, prefixes=("localhost/", "registry.example:5000/team/"), tags=("latest", "7"))
    assert (made.edges == [("a", "b")]) == edge


def test_an_image_with_another_tag_is_noted(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x", b="FROM a:3.2")
    assert graph(tmp_path).notes == [
        "src/b/build/b.common.dockerfile:1: FROM a:3.2 is not the a built here; without the tag it is"
    ]


def test_d15_an_image_may_be_made_from_another_of_its_component(tmp_path: Path) -> None:
    write(tmp_path, {"c/build/run.dockerfile": "FROM dev", "c/build/dev.dockerfile": "FROM x"})
    made = graph(tmp_path)
    assert made.order() == ["dev", "run"]
    assert made.edges == []


def test_d15_one_edge_however_often_it_is_written(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x", b="FROM a\nFROM a\nCOPY --from=a / /")
    write(tmp_path, {"b/build/component.dep": "a\na\n"})
    made = graph(tmp_path)
    assert made.edges == [("a", "b")]
    assert made.jobs["b"].needs == ("a",)


def test_d15_every_member_of_every_cycle_is_named_with_the_reason(tmp_path: Path) -> None:
    images(tmp_path, a="FROM c", b="FROM a", c="FROM b", d="FROM x", p="FROM q", q="FROM p")
    with pytest.raises(GraphError) as caught:
        graph(tmp_path).order()
    assert caught.value.code == 15
    assert caught.value.message == "the graph has 2 cycles"
    assert sorted(caught.value.detail.splitlines()) == sorted(
        [
            "  a -> b -> c -> a",
            "    b needs a: src/b/build/b.common.dockerfile:1 FROM a",
            "    c needs b: src/c/build/c.common.dockerfile:1 FROM b",
            "    a needs c: src/a/build/a.common.dockerfile:1 FROM c",
            "  p -> q -> p",
            "    q needs p: src/q/build/q.common.dockerfile:1 FROM p",
            "    p needs q: src/p/build/p.common.dockerfile:1 FROM q",
        ]
    )


def test_d15_a_cycle_begins_with_its_first_member_by_name(tmp_path: Path) -> None:
    images(tmp_path, a="FROM z", z="FROM y", y="FROM m", m="FROM z")
    with pytest.raises(GraphError) as caught:
        graph(tmp_path).order()
    assert caught.value.message == "the graph has a cycle"
    assert caught.value.detail.splitlines()[0] == "  m -> y -> z -> m"


def test_d15_an_image_from_itself_is_told_what_to_write(tmp_path: Path) -> None:
    images(tmp_path, nginx="FROM nginx")
    with pytest.raises(GraphError) as caught:
        graph(tmp_path).order()
    assert "  nginx -> nginx" in caught.value.detail.splitlines()
    assert "write its tag" in caught.value.hint


def test_a_cycle_elsewhere_does_not_stop_what_has_no_part_in_it(tmp_path: Path) -> None:
    images(tmp_path, a="FROM b", b="FROM a", c="FROM x")
    assert graph(tmp_path).order({"c"}) == ["c"]


def test_components_may_need_each_other_where_their_images_do_not(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a/build/a1.dockerfile": "FROM x",
            "a/build/a2.dockerfile": "FROM b",
            "b/build/b.dockerfile": "FROM a1",
        },
    )
    made = graph(tmp_path)
    assert made.order() == ["a1", "b", "a2"]
    assert made.edges == [("a", "b"), ("b", "a")]
    assert made.levels() == [["b"], ["a"]]
    write(tmp_path, {"c/build/c.dockerfile": "FROM x", "a/build/a3.dockerfile": "FROM c"})
    assert graph(tmp_path).levels(["a", "b"]) == [["b"], ["a"]]


def test_d16_the_order_does_not_depend_on_the_order_of_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(tmp_path, **{name: "FROM zz" if name != "zz" else "FROM x" for name in ("b", "a", "zz", "c", "d")})
    scandir = os.scandir

    class Backwards:
        def __init__(self, path: object) -> None:
            with scandir(path) as rows:  # type: ignore[call-overload]
                self.rows = sorted(rows, key=lambda row: row.name, reverse=True)

        def __enter__(self) -> object:
            return iter(self.rows)

        def __exit__(self, *_: object) -> None:
            pass

    plain = graph(tmp_path)
    monkeypatch.setattr(os, "scandir", Backwards)
    other = graph(tmp_path)
    assert plain.order() == other.order() == ["zz", "a", "b", "c", "d"]
    assert list(plain.jobs) == list(other.jobs)


@st.composite
def acyclic(draw: st.DrawFn) -> Graph:
    """A graph without cycles: a component needs only ones that come before it, by image or by name."""
    count = draw(st.integers(1, 12))
    parts = {}
    for number in range(count):
        earlier = [f"c{before:02}" for before in range(number)]
        some = st.lists(st.sampled_from(earlier), unique=True, max_size=4) if earlier else st.just([])
        name, has_image = f"c{number:02}", draw(st.booleans())
        image = Image(
            name=name,
            component=name,
            kind="dockerfile",
            file="build/f",
            bases=tuple(Reference(base, "FROM", 1) for base in draw(some)),
        )
        parts[name] = Component(
            name=name,
            path=Path(name),
            images=(image,) * has_image,
            pre="build/build-pre.sh" if not has_image or draw(st.booleans()) else "",
            post="build/build-post.sh" if draw(st.booleans()) else "",
            dependencies=tuple(Dependency(provider, (), "f:1") for provider in sorted(draw(some))),
        )
    return Graph(Repository(root=Path(), components=parts, notes=(), contents=Contents(Path())))


@settings(max_examples=50)
@given(acyclic())
def test_whatever_a_job_needs_comes_before_it(made: Graph) -> None:
    order = made.order()
    assert sorted(order) == list(made.jobs)
    place = {name: at for at, name in enumerate(order)}
    assert all(place[need] < place[job.name] for job in made.jobs.values() for need in job.needs)


@settings(max_examples=50)
@given(acyclic())
def test_a_level_needs_only_earlier_ones_and_none_is_later_than_it_must_be(made: Graph) -> None:
    level = {name: at for at, names in enumerate(made.levels()) for name in names}
    assert sorted(level) == sorted(made.repository.components)
    for name, at in level.items():
        providers = [level[provider] for provider, consumer in made.edges if consumer == name]
        assert at == max(providers, default=-1) + 1


@settings(max_examples=50)
@given(acyclic())
def test_upstream_and_downstream_say_the_same_from_both_ends(made: Graph) -> None:
    for name in made.jobs:
        assert all(name in made.downstream([above]) for above in made.upstream([name]))
        assert all(name in made.upstream([below]) for below in made.downstream([name]))
        assert name not in made.upstream([name])


def test_d07_what_a_base_copies_by_onbuild_belongs_to_the_images_made_from_it(tmp_path: Path) -> None:
    triggers = "ONBUILD COPY build/ /b/\nONBUILD ADD --from=tools /t /t\nONBUILD COPY dependency/sdk/lib /l"
    images(tmp_path, base=f"FROM x\n{triggers}", tools="FROM x", child="FROM base", grand="FROM child")
    write(tmp_path, {
        "child/build/other.common.dockerfile": "FROM x", "grand/build/more.common.dockerfile": "FROM x",
        "sdk/lib/f": "",
    })  # fmt: skip
    made = graph(tmp_path)
    assert made.jobs["base"].needs == ()
    assert made.jobs["child"].needs == ("base", "tools")
    assert made.reasons["tools", "child"] == (
        "src/child/build/child.common.dockerfile ONBUILD ADD --from of base tools"
    )
    assert made.jobs["grand"].needs == ("child",)  # a trigger acts once
    assert ("sdk", "child") in made.edges
    inputs = Inputs(made)
    assert "file:build/other.common.dockerfile" in inputs.own("child")
    assert "product:sdk:lib/f" in inputs.own("child")
    assert "file:build/more.common.dockerfile" not in inputs.own("grand")


def test_a_trigger_of_a_stage_acts_in_the_stages_made_from_it(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x AS s\nONBUILD COPY build /b\nFROM s", b="FROM x")
    write(tmp_path, {"a/build/other.common.dockerfile": "FROM x"})
    assert "file:build/other.common.dockerfile" in Inputs(graph(tmp_path)).own("a")
