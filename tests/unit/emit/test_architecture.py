"""An image's label, and the processor of what it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep import emit
from buildstep.errors import EmitError
from buildstep.system.output_set import Outputs
from buildstep.tree import scan
from tests.unit import trees


def program(path: Path, machine: int, *, big: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = b"\x7fELF\2" + (b"\2" if big else b"\1") + bytes(10) + bytes(2)
    path.write_bytes(head + machine.to_bytes(2, "big" if big else "little") + bytes(44))


def write(root: Path, stem: Path, **config: object) -> None:
    job = trees.job(root, stem, tree=scan.scan(root), config=config)
    with Outputs() as outputs:
        emit.emit(job, ["oci"], outputs)
        outputs.commit()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


def test_a_tree_of_another_architecture_is_refused_and_nothing_is_written(tree: Path, tmp_path: Path) -> None:
    program(tree / "usr/bin/dash", 183)
    (tree / "bin").symlink_to("usr/bin")
    (tree / "usr/bin/sh").symlink_to("dash")
    with pytest.raises(
        EmitError, match=r"labelled amd64, but /bin/sh in it is a program for arm64"
    ) as caught:
        write(tree, tmp_path / "out/x-1", architecture="amd64")
    assert "build.oci.architecture" in caught.value.hint
    assert list((tmp_path / "out").iterdir()) == []
    write(tree, tmp_path / "out/x-1", architecture="arm64")


@pytest.mark.parametrize(
    ("label", "machine", "big"),
    [
        ("amd64", 3, False),
        ("arm64", 40, False),
        ("ppc64", 21, True),
        ("ppc64le", 21, False),
        ("s390x", 22, True),
    ],
)
def test_what_a_processor_runs_is_taken(
    tree: Path, tmp_path: Path, label: str, machine: int, big: bool
) -> None:
    program(tree / "sbin/init", machine, big=big)
    write(tree, tmp_path / "x-1", architecture=label)


@pytest.mark.parametrize(
    "config",
    [
        {"entrypoint": ["/app/server", "-v"]},
        {"cmd": ["server"], "env": {"PATH": "/bin:/app"}},
        {"entrypoint": ["app/../app/link"]},
    ],
)
def test_the_program_of_the_image_is_looked_at(tree: Path, tmp_path: Path, config: dict[str, object]) -> None:
    program(tree / "app/server", 62)
    (tree / "app/link").symlink_to("/app/server")
    with pytest.raises(EmitError, match="labelled arm64, but /app/"):
        write(tree, tmp_path / "x-1", architecture="arm64", **config)


def test_other_files_may_be_of_any_processor(tree: Path, tmp_path: Path) -> None:
    program(tree / "usr/lib/firmware/blob", 40)
    (tree / "bin").mkdir()
    (tree / "bin/sh").write_text("#!/bin/true\n")
    (tree / "sbin").mkdir()
    (tree / "sbin/init").symlink_to("init")
    write(tree, tmp_path / "x-1", architecture="amd64", cmd=["/missing"])


def test_an_architecture_that_we_do_not_know_is_taken_as_it_is(tree: Path, tmp_path: Path) -> None:
    program(tree / "bin/sh", 62)
    write(tree, tmp_path / "x-1", architecture="newcpu")
