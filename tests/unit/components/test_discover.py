"""Discovery: which components a repository has, and all that is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildstep.errors import SpecError
from tests.unit.components.repositories import NINE, found, images, write


def faults(root: Path, **options: object) -> list[str]:
    with pytest.raises(SpecError) as caught:
        found(root, **options)
    return [f"{fault.where}: {fault.message}" for fault in caught.value.faults]


def hints(root: Path, **options: object) -> list[str]:
    with pytest.raises(SpecError) as caught:
        found(root, **options)
    return [fault.hint for fault in caught.value.faults]


def test_the_nine_components_of_openpai() -> None:
    repository = found(NINE)
    assert {name: [image.name for image in part.images] for name, part in repository.components.items()} == {
        "base-image": ["base-image"],
        "cleaning-image": ["cleaning-image"],
        "drivers": ["drivers-384.111", "drivers-390.25", "drivers-410.73", "drivers-418.56"],
        "end-to-end-test": ["end-to-end-test"],
        "hadoop-ai": [],
        "hadoop-run": ["hadoop-run"],
        "job-exporter": ["job-exporter"],
        "yarn-frameworklauncher": ["yarn-frameworklauncher"],
        "zookeeper": ["zookeeper"],
    }
    hooks = {name for name, part in repository.components.items() if part.pre}
    assert hooks == {"hadoop-ai", "hadoop-run", "yarn-frameworklauncher"}
    assert repository.notes == ()
    assert repository.components["hadoop-run"].files == (
        "build/build-pre.sh",
        "build/component.dep",
        "build/hadoop-run.common.dockerfile",
        "core-site.xml",
    )


def test_d08_a_file_belongs_to_where_it_lies_and_builds_an_image_only_in_build(tmp_path: Path) -> None:
    images(tmp_path, x="FROM a")
    for place in ("x/f", "x/a/b/f", "x/other/f", "x/build/deeper/f", "x/a/build/f"):
        write(tmp_path, {f"{place}.common.dockerfile": "FROM a"})
    repository = found(tmp_path)
    assert list(repository.images()) == ["x"]
    assert "a/b/f.common.dockerfile" in repository.components["x"].files
    assert repository.notes == tuple(
        f"src/x/{place}/f.common.dockerfile".replace("//", "/")
        + ": builds no image, it is not in src/x/build"
        for place in ("a/b", "a/build", "build/deeper", "", "other")
    )


def test_d09_what_a_killed_run_left_is_not_source(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x", b="FROM a")
    write(
        tmp_path,
        {
            "b/dependency/a/build/a.common.dockerfile": "FROM x",
            "b/generated/out": "",
            "b/src/generated/g": "",
        },
    )
    repository = found(tmp_path)
    assert repository.components["b"].files == ("build/b.common.dockerfile", "src/generated/g")
    assert repository.notes == (
        "src/b/dependency: not read, builds make it",
        "src/b/generated: not read, builds make it",
    )


def test_ignored_files_are_no_part_of_a_component(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x")
    write(
        tmp_path,
        {
            "a/.git/config": "", "a/node_modules/m/x.dockerfile": "", "a/doc/x.pyc": "", "a/doc/y": "", "a/tmp": "",
            "a/.buildstepignore": "# mine\n!node_modules\n/tmp\n",
        },
    )  # fmt: skip
    (tmp_path / ".buildstepignore").write_text("*.pyc\n/src/other/\n")
    write(tmp_path, {"other/build/broken.dockerfile": "FROM", "a/src/other/in": ""})
    repository = found(tmp_path)
    assert list(repository.components) == ["a"]
    assert repository.components["a"].files == (
        ".buildstepignore", "build/a.common.dockerfile", "doc/y", "node_modules/m/x.dockerfile", "src/other/in",
    )  # fmt: skip


def test_a_wrong_pattern_is_told_with_its_line(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x")
    write(tmp_path, {"a/.buildstepignore": "ok\n!other\n"})
    assert faults(tmp_path) == ["src/a/.buildstepignore:2: '!other' is no pattern"]


def test_d18_both_names_of_the_dependency_file_are_read(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x", b="FROM x", c="FROM x")
    write(tmp_path, {"c/build/component.dep": "a\n", "c/build/components.dep": "\n  b  # why\n# no line\n"})
    rows = found(tmp_path).components["c"].dependencies
    assert [(row.provider, row.paths, row.where) for row in rows] == [
        ("a", (), "src/c/build/component.dep:1"),
        ("b", (), "src/c/build/components.dep:2"),
    ]


def test_d18_a_plain_dockerfile_is_of_every_mode(tmp_path: Path) -> None:
    write(tmp_path, {"a/build/a.dockerfile": "FROM x", "b/build/drivers-384.111.dockerfile": "FROM x"})
    assert list(found(tmp_path).images()) == ["a", "drivers-384.111"]
    assert list(found(tmp_path, mode="all").images()) == ["a", "drivers-384.111"]


def test_mode_words_choose_files(tmp_path: Path) -> None:
    rows = dict.fromkeys(("a/build/a.yarn.dockerfile", "a/build/b.k8s.dockerfile"), "FROM x")
    write(tmp_path, {**rows, "a/build/c.common.dockerfile": "FROM x", "a/build/d.edge.dockerfile": "FROM x"})
    assert list(found(tmp_path).images()) == ["b", "c", "d.edge"]
    assert list(found(tmp_path, mode="yarn").images()) == ["a", "c", "d.edge"]
    assert list(found(tmp_path, mode="edge").images()) == ["c", "d"]
    assert list(found(tmp_path, mode="all").images()) == ["a", "b", "c", "d.edge"]


def test_hooks_of_a_component_that_is_of_another_mode_do_not_count(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"a/build/a.yarn.dockerfile": "FROM x", "a/build/build-pre.sh": "", "b/build/build-pre.sh": ""},
    )
    repository = found(tmp_path)
    assert list(repository.components) == ["b"]
    assert repository.notes == ("src/a: left out, none of its images is of the mode k8s",)


def test_d10_a_name_is_the_same_on_both_sides(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"B/build/b.dockerfile": "FROM x", "c/build/c.dockerfile": "FROM x", "c/build/component.dep": "b"},
    )
    assert faults(tmp_path) == ["src/c/build/component.dep:1: there is no component b"]
    assert hints(tmp_path) == ['did you mean "B"?']


def test_d10_an_image_that_no_registry_can_name_is_told(tmp_path: Path) -> None:
    write(tmp_path, {"a/build/App.dockerfile": "FROM x"})
    assert faults(tmp_path) == ["src/a/build/App.dockerfile: 'App' cannot be the name of an image"]


def test_all_faults_are_told_together(tmp_path: Path) -> None:
    images(tmp_path, a="FROM", b="FROM x")
    write(
        tmp_path,
        {
            "a/build/b.k8s.dockerfile": "FROM x", "b/build/component.dep": "b\nnone\na ../etc /etc",
            "b/build/c.image.json": '{"build": {}}', "b/build/d.image.json": "{",
        },
    )  # fmt: skip
    (tmp_path / "src/a/build/e.dockerfile").write_bytes(b"FROM \xff")
    told = faults(tmp_path)
    assert [row.split(": ", 1)[0] for row in told] == [
        "src/a/build/a.common.dockerfile:1", "src/a/build/e.dockerfile", "src/b/build/c.image.json",
        "src/b/build/d.image.json", "src/b/build/component.dep:3", "src/b/build/component.dep:3",
        "src/b/build/component.dep:1", "src/b/build/component.dep:2", "src/b/build/b.common.dockerfile",
    ]  # fmt: skip
    assert told[-1].endswith("src/a/build/b.k8s.dockerfile describes the image b too")


def test_a_directory_without_build_counts_if_somebody_needs_it(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x\nCOPY dependency/sdk/lib /lib")
    write(tmp_path, {"sdk/lib/s.py": "", "docs/x": "", "a/build/component.dep": "sdk docs\n"})
    repository = found(tmp_path)
    assert list(repository.components) == ["a", "sdk"]
    assert repository.components["a"].dependencies[0].paths == ("docs", "lib")
    assert repository.components["sdk"].files == ("lib/s.py",)


@pytest.mark.parametrize(
    ("source", "paths"),
    [
        ("dependency/p", ()),
        ("dependency/p/", ()),
        ("./dependency/p/generated/x", ()),
        ("/dependency/p/lib/a", ("lib/a",)),
        ("dependency/p/lib/*.jar", ("lib",)),
        ("dependency/p/*", (".",)),
        ("dependency/p/generated/*", ()),
        ("dependency/*/x", None),
        ("dependency/none/x", None),
        ("dependency", None),
        ("other/dependency/p", None),
    ],
)
def test_what_a_dockerfile_copies_of_others_is_a_dependency(
    tmp_path: Path, source: str, paths: tuple[str, ...] | None
) -> None:
    images(tmp_path, a=f"FROM x\nCOPY {source} /")
    write(tmp_path, {"p/build/build-pre.sh": "", "p/lib/a": ""})
    rows = found(tmp_path).components["a"].dependencies
    assert [(row.provider, row.paths) for row in rows] == ([] if paths is None else [("p", paths)])


def test_what_hooks_make_need_not_be_named(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x", p="FROM x")
    write(tmp_path, {"a/build/component.dep": "p generated/x lib\n", "p/lib/a": ""})
    assert found(tmp_path).components["a"].dependencies[0].paths == ("lib",)


def test_what_is_no_file_is_left_out_and_nobody_waits_for_it(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x")
    os.mkfifo(tmp_path / "src/a/pipe")
    (tmp_path / "src/a/link").symlink_to("/etc")
    repository = found(tmp_path)
    assert repository.components["a"].files == ("build/a.common.dockerfile", "link")
    assert repository.notes == ("src/a/pipe: not read, it is no file and no link",)


def test_a_description_outside_of_the_component_is_refused(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x")
    write(tmp_path, {"a/shared": "FROM x", "../outside": "FROM x"})
    (tmp_path / "src/a/build/in.dockerfile").symlink_to("../shared")
    (tmp_path / "src/a/build/out.dockerfile").symlink_to("../../../outside")
    assert faults(tmp_path) == ["src/a/build/out.dockerfile: is a link that leads out of the component"]


def test_our_own_kind_names_its_base(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a/build/a.image.json": '{"name": "a", "build": {"image": "base"}}',
            "b/build/b.k8s.image.json.j2": '{"version": "{{ stamp }}", "build": {"image": "{{ env.BASE }}"}}',
        },
    )
    found_images = found(tmp_path, environ={"BASE": "a"}).images()
    assert {name: (row.kind, row.bases[0].text) for name, row in found_images.items()} == {
        "a": ("image", "base"),
        "b": ("image", "a"),
    }


def test_our_own_kind_may_include_files_of_its_component(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a/build/a.image.json": '{"name": "a", "include": ["../conf/common.json"]}',
            "a/conf/common.json": '{"build": {"image": "base"}}',
        },
    )
    assert found(tmp_path).images()["a"].bases[0].text == "base"
    write(tmp_path, {"b/build/b.image.json": '{"include": ["../../a/conf/common.json"]}'})
    assert faults(tmp_path) == [
        "src/b/build/b.image.json: ../a/conf/common.json: is included, and is no file of the component"
    ]


def test_a_directory_without_src_is_told(tmp_path: Path) -> None:
    assert faults(tmp_path) == ["src: No such file or directory"]


def test_each_file_is_read_once(tmp_path: Path) -> None:
    images(tmp_path, **{f"i{number}": f"FROM i{number - 1}" for number in range(50)})
    write(tmp_path, {"i1/build/component.dep": "i0\n"})
    contents = found(tmp_path).contents
    for name in ("src/i1/build/component.dep", "src/i1/build/i1.common.dockerfile"):
        contents.digest(name)
        contents.text(name)
    assert contents.reads == 51
