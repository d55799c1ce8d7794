"""What a `.dockerignore` leaves out, and that it is no input of an image then."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.components.affected import affected, find_change
from buildstep.components.dockerignore import Ignore, ignore_file
from buildstep.components.inputs import Inputs
from buildstep.errors import SpecError
from tests.unit.components.repositories import found, graph, images, write


@pytest.mark.parametrize(
    ("patterns", "ignored", "kept"),
    [
        ("a", ["a", "a/b"], ["b/a", "ab"]),
        ("*.log", ["x.log"], ["d/x.log", "x.logs"]),
        ("**/*.log", ["x.log", "d/x.log", "d/e/x.log"], ["x.log.gz"]),
        ("d/**", ["d/a", "d/e/a"], ["d"]),
        ("**", ["a", "d/a"], []),
        ("d/**/x", ["d/x", "d/e/f/x"], ["x", "d/ex/y"]),
        ("/d/./e/../a", ["d/a"], ["d/e/a"]),
        ("no?e", ["node"], ["no/e", "nod"]),
        ("[a-c]x", ["ax"], ["dx"]),
        ("[^a-c]x", ["dx"], ["ax"]),
        ("a.b+(c)$", ["a.b+(c)$"], ["axb+(c)$"]),
        ("\\*", ["*"], ["a"]),
        ("*\n!keep", ["a", "d/keep"], ["keep", "keep/x"]),
        ("d\n!d/a\nd/a/b", ["d/x", "d/a/b"], ["d/a", "d/a/c"]),
        ("  # not a comment \n#a\n\n b ", ["# not a comment", "b"], ["#a", "a"]),
        ("\ufeffa\n! b ", ["a"], ["b"]),
        (".", [], ["a"]),
    ],
)
def test_the_last_pattern_that_matches_a_path_or_one_above_it_decides(
    patterns: str, ignored: list[str], kept: list[str]
) -> None:
    ignore = Ignore(patterns)
    assert ignore.faults == []
    assert {path: ignore(path) for path in (*ignored, *kept)} == {
        **dict.fromkeys(ignored, True),
        **dict.fromkeys(kept, False),
    }


def test_what_is_no_pattern_is_told_with_its_line(tmp_path: Path) -> None:
    images(tmp_path, a="FROM x\nCOPY . /")
    write(tmp_path, {"a/.dockerignore": "fine\n[a\n!\nb\\\n[]\n"})
    with pytest.raises(SpecError) as caught:
        found(tmp_path)
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [
        ("src/a/.dockerignore:2", "'[a' is no pattern"),
        ("src/a/.dockerignore:3", "'!' is no pattern"),
        ("src/a/.dockerignore:4", "'b\\\\' is no pattern"),
        ("src/a/.dockerignore:5", "'[]' is no pattern"),
    ]


def test_the_file_of_a_dockerfile_wins_over_that_of_the_context() -> None:
    files = ["build/w.dockerfile", "build/w.dockerfile.dockerignore", ".dockerignore"]
    assert ignore_file(files[0], files) == "build/w.dockerfile.dockerignore"
    assert ignore_file("build/v.dockerfile", files) == ".dockerignore"
    assert ignore_file("build/v.dockerfile", files[:2]) == ""


def test_ignored_files_are_inputs_of_the_hook_and_not_of_the_image(tmp_path: Path) -> None:
    write(tmp_path, {
        "a/build/a.common.dockerfile": "FROM x\nCOPY . /",
        "a/build/b.common.dockerfile": "FROM x\nCOPY . /",
        "a/build/b.common.dockerfile.dockerignore": "**\n!x",
        "a/build/build-pre.sh": "",
        "a/.dockerignore": "*.md\nbuild\n.dockerignore\n",
        "a/README.md": "", "a/x": "", "a/docs/y.md": "",
    })  # fmt: skip
    made = graph(tmp_path)
    inputs = Inputs(made)

    def files(job: str) -> set[str]:
        return {name.partition(":")[2] for name in inputs.own(job) if name.startswith("file:")}

    # The Dockerfile and what decides are read in any case.
    assert files("a") == {"build/a.common.dockerfile", ".dockerignore", "x", "docs/y.md"}
    assert files("b") == {"build/b.common.dockerfile", "build/b.common.dockerfile.dockerignore", "x"}
    assert len(files("a:pre")) == 8
    change = find_change(tmp_path, ["src/a/README.md"], cwd=tmp_path)
    assert affected(made, change, "none")[0] == {"a:pre"}
    change = find_change(tmp_path, ["src/a/docs/y.md"], cwd=tmp_path)
    assert affected(made, change, "none")[0] == {"a:pre", "a"}
