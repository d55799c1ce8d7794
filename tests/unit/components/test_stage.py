"""Components staged apart: what comes in, what goes out, and that the sources stay as they are."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from buildstep.components.interface import Dependency, GraphError
from buildstep.components.stage import NOTHING, Provider, Stage, Stages
from buildstep.tree.diff import Changes
from buildstep.tree.scan import fingerprint_of
from tests.unit.components.componentdata import component, write


def listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def hooked(stages: Stages, stage: Stage, **files: str) -> str:
    """Play a hook: write files into a stage, and keep what changed. Returns the output."""
    before = stages.look(stage)
    write(stage.folder, {name.replace("__", "/"): text for name, text in files.items()})
    return stages.keep(stage, before)


def test_d13_only_declared_products_of_a_provider_come_in(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    needs = Dependency("sdk", ("lib", "VERSION"), "component.dep:1")
    files = {"lib/a.py": "a", "VERSION": "1", "node_modules/big": "b", "dependency/old/x": "x", "libel": "no"}
    sdk, web = (
        component(root, "sdk", files),
        component(root, "web", {"build/web.dockerfile": "FROM scratch"}, needs),
    )
    stages = Stages(tmp_path / "state", root)
    output = hooked(stages, stages.stage(sdk), generated__sdk_tar="t", elsewhere="e")
    stage = stages.stage(web, [Provider(sdk, needs, [output])])
    assert listing(stage.folder) == {
        "build/web.dockerfile", "dependency/sdk/lib/a.py", "dependency/sdk/VERSION",
        "dependency/sdk/generated/sdk_tar",
    }  # fmt: skip
    assert stage.folder == stage.top / "src/web"


def test_d13_links_are_copied_as_links_and_products_do_not_nest(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    low = component(root, "low", {"a": "a"})
    (low.path / "link").symlink_to("/etc")
    low = component(root, "low", {"a": "a"})
    middle = component(root, "middle", {"m": "m"}, Dependency("low", ("",), "x:1"))
    stages = Stages(tmp_path / "state", root)
    first = stages.stage(middle, [Provider(low, middle.dependencies[0], [])])
    assert os.readlink(first.folder / "dependency/low/link") == "/etc"
    output = hooked(stages, first, generated__m="m")
    top = component(root, "top", {"t": "t"}, Dependency("middle", (), "x:1"))
    stage = stages.stage(top, [Provider(middle, top.dependencies[0], [output])])
    assert listing(stage.folder) == {"t", "dependency/middle/generated/m"}


def test_d11_d09_folders_of_the_user_are_neither_used_nor_removed(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    own = component(
        root, "own", {"a": "a", "generated/kept": "k", "dependency/x/f.common.dockerfile": "FROM y"}
    )
    before = fingerprint_of(root)
    stages = Stages(tmp_path / "state", root)
    stage = stages.stage(own)
    assert listing(stage.folder) == {"a"}
    stages.remove("own")
    stages.clear()
    assert not stage.top.exists()
    assert fingerprint_of(root) == before


def test_the_output_of_a_hook_is_what_it_changed(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    stages = Stages(tmp_path / "state", root)
    one = component(root, "one", {"a": "a", "b": "b"})
    first = hooked(stages, stages.stage(one), generated__x="x")
    one = component(root, "one", {"a": "changed", "b": "b"})
    assert hooked(stages, stages.stage(one), generated__x="x") == first
    assert hooked(stages, stages.stage(one), generated__x="y") != first
    assert hooked(stages, stages.stage(one)) == NOTHING
    # A file of the same size, with its old times: only its inode tells.
    stage = stages.stage(one)
    before = stages.look(stage)
    info = (stage.folder / "b").stat()
    (stage.folder / "b").write_text("B")
    os.utime(stage.folder / "b", ns=(info.st_atime_ns, info.st_mtime_ns))
    assert stages.keep(stage, before) not in (first, NOTHING)


def test_what_a_hook_changed_is_laid_over_a_later_stage(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    stages = Stages(tmp_path / "state", root)
    one = component(root, "one", {"a": "a", "b/c": "c"})
    stage = stages.stage(one)
    before = stages.look(stage)
    (stage.folder / "b/c").unlink()
    (stage.folder / "b").rmdir()
    write(stage.folder, {"a": "new", "run.sh": "#!/bin/sh\n"})
    (stage.folder / "link").symlink_to("a")
    output = stages.keep(stage, before)
    assert stages.has(output)
    again = stages.stage(one, outputs=[output])
    assert listing(again.folder) == {"a", "run.sh", "link"}
    assert (again.folder / "a").read_text() == "new"
    assert os.access(again.folder / "run.sh", os.X_OK)
    assert not (again.folder / "b").exists()


def test_products_without_their_last_file_are_of_a_killed_run(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    stages = Stages(tmp_path / "state", root)
    one = component(root, "one", {"a": "a"})
    output = hooked(stages, stages.stage(one), x="x")
    sidecar = tmp_path / "state/products" / f"{output.removeprefix('sha256:')}.json"
    sidecar.unlink()
    assert not stages.has(output)
    assert hooked(stages, stages.stage(one), x="x") == output
    assert stages.has(output)
    stages.prune([])
    assert not stages.has(output)


def test_products_that_were_written_to_are_not_used(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    stages = Stages(tmp_path / "state", root)
    one = component(root, "one", {"a": "a"})
    output = hooked(stages, stages.stage(one), x="x")
    shutil.copytree(tmp_path / "state", tmp_path / "copy")
    assert Stages(tmp_path / "copy", root).has(output)
    (tmp_path / "state/products" / output.removeprefix("sha256:") / "x").write_text("y")
    assert not stages.has(output)
    assert hooked(stages, stages.stage(one), x="x") == output
    assert stages.has(output)


def test_a_declared_product_that_is_not_there_is_named_with_its_line(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    needs = Dependency("low", ("gone",), "src/top/build/component.dep:3")
    low, top = component(root, "low", {"a": "a"}), component(root, "top", {"t": "t"}, needs)
    with pytest.raises(GraphError, match=r"component\.dep:3: low has no gone"):
        Stages(tmp_path / "state", root).stage(top, [Provider(low, needs, [])])


def test_d14_modes_and_times_are_those_of_the_sources(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    one = component(root, "one", {"a": "a", "build/build-pre.sh": "true"})
    os.utime(one.path / "a", ns=(5, 7_000_000_001))
    (one.path / "a").chmod(0o640)
    stage = Stages(tmp_path / "state", root).stage(one)
    info = (stage.folder / "a").stat()
    assert (info.st_mode & 0o7777, info.st_mtime_ns) == (0o640, 7_000_000_001)


def test_hooks_that_make_the_same_at_the_same_time_keep_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first one has kept may be in use while the second one ends."""
    root, written = tmp_path / "repo", []
    stages = Stages(tmp_path / "state", root)

    def slow(self: Stages, changes: Changes, folder: Path, digest: str) -> None:
        written.append(digest)
        time.sleep(0.05)
        write_products(self, changes, folder, digest)

    write_products = Stages._write
    monkeypatch.setattr(Stages, "_write", slow)
    made = [stages.stage(component(root, name, {"a": name})) for name in ("x", "y")]
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda stage: hooked(stages, stage, generated__p="same"), made))
    assert written == [outputs[0]]
    assert outputs[0] == outputs[1]
    assert stages.has(outputs[0])
