"""Stages that show the sources through an overlay hold what copies of them hold, and leave the sources alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from buildstep.components.interface import Dependency
from buildstep.components.stage import Provider, Stages
from buildstep.system import mount_table, mounts
from tests.unit.components.componentdata import component, write

FILES = {
    "a": "a", "build/build-pre.sh": "true", "deep/er/b": "b", "deep/er/c": "c", "gone/d": "d", "moded": "m",
    "full/f": "f", "full/g": "g", "full/under/h": "h", "whole/i": "i", "file": "f",
    "generated/of-the-user": "u", "dependency/old/x": "x", "node_modules/big/file": "n",
}  # fmt: skip


def listing(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = "directory" if path.is_dir() else f"{path.read_text()} {path.stat().st_mode:o}"
    return found


def one_round(top: Path, root: Path, *, mounting: bool) -> tuple[dict[str, str], str, dict[str, str], int]:
    """Stage, play a hook, keep, and stage again with what the hook made."""
    low = component(root, "low", {"l": "l"})
    needs = Dependency("low", ("l",), "component.dep:1")
    found = component(root, "one", FILES, needs)
    ignored = {"node_modules/big/file", "gone/d"}
    one = type(found)(
        name="one", path=found.path, dependencies=found.dependencies, pre=found.pre,
        files=tuple(name for name in found.files if name not in ignored),
    )  # fmt: skip
    sources = listing(one.path)
    stages = Stages(top, root, mounting=mounting)
    stage = stages.stage(one, [Provider(low, needs, [])])
    first = listing(stage.folder)
    overlays = len(mount_table.mount_points(stage.folder))
    before = stages.look(stage)
    write(stage.folder, {"a": "changed", "generated/x": "x", "build/build-pre.sh": "true"})
    (stage.folder / "deep/er/b").unlink()
    (stage.folder / "build/new/one").mkdir(parents=True)
    (stage.folder / "moded").chmod(0o600)
    (stage.folder / "dependency/low/l").unlink()
    for name in ("full", "whole"):
        shutil.rmtree(stage.folder / name)
    write(stage.folder, {"full/f": "new", "full/sub/s": "s"})
    (stage.folder / "file").unlink()
    write(stage.folder, {"file/in": "a directory now"})
    output = stages.keep(stage, before)
    again = stages.stage(one, [Provider(low, needs, [])], [output])
    second = listing(again.folder)
    stages.clear()
    assert not stage.top.exists()
    assert listing(one.path) == sources
    return first, output, second, overlays


def test_an_overlay_shows_what_copies_hold(
    private: Callable[[Callable[[], None]], None], tmp_path: Path
) -> None:
    def inside() -> None:
        copied = one_round(tmp_path / "copies", tmp_path / "repo", mounting=False)
        shown = one_round(tmp_path / "overlays", tmp_path / "repo", mounting=True)
        assert (copied[3], shown[3]) == (0, 1)
        assert shown[:3] == copied[:3]
        assert set(shown[0]) == {
            "a", "build", "build/build-pre.sh", "deep", "deep/er", "deep/er/b", "deep/er/c", "dependency",
            "dependency/low", "dependency/low/l", "generated", "moded", "full", "full/f", "full/g", "full/under",
            "full/under/h", "whole", "whole/i", "file",
        }  # fmt: skip
        assert set(shown[2]) == {
            "a",
            "build",
            "build/build-pre.sh",
            "build/new",
            "build/new/one",
            "deep",
            "deep/er",
            "deep/er/c",
            "dependency",
            "dependency/low",
            "generated",
            "generated/x",
            "moded",
            "full",
            "full/f",
            "full/sub",
            "full/sub/s",
            "file",
            "file/in",
        }
        assert shown[2]["a"].startswith("changed")

    private(inside)


def test_a_place_that_can_hold_no_overlay_gets_copies(
    private: Callable[[Callable[[], None]], None], tmp_path: Path
) -> None:
    """As in a container, whose own file system is an overlay."""

    def inside() -> None:
        one = component(tmp_path / "repo", "one", FILES)
        for name in ("lower", "upper", "work", "state"):
            (tmp_path / name).mkdir()
        options = mounts.overlay_options([tmp_path / "lower"], tmp_path / "upper", tmp_path / "work")
        with mounts.mounted("overlay", tmp_path / "state", "overlay", data=options):
            stages = Stages(tmp_path / "state", tmp_path / "repo", mounting=True)
            stage = stages.stage(one)
            assert (stage.folder / "deep/er/b").read_text() == "b"
            assert len(mount_table.mount_points(tmp_path / "state")) == 1
            stages.clear()

    private(inside)
