"""What the file beside a proto directory leaves out."""

from __future__ import annotations

from pathlib import Path

from tests.unit.specdata import Load, faults, with_build


def test_its_patterns_are_added_to_those_of_the_build(build: Load, tmp_path: Path) -> None:
    assert build().exclude == ()
    (tmp_path / ".buildstepignore").write_text("# what editors leave\n*.swp\n\n/tmp/  \n*.swp\n")
    assert build().exclude == ("*.swp", "/tmp/")
    assert build(with_build(exclude=["*.o"])).exclude == ("*.o", "*.swp", "/tmp/")
    assert build().origin_of["exclude"] == "file"
    (tmp_path / "deep" / "proto").mkdir(parents=True)
    assert build(flags={"proto": "deep/proto"}).exclude == (), "it is beside another directory"


def test_what_it_cannot_say_is_told_with_its_line(build: Load, tmp_path: Path) -> None:
    path = tmp_path / ".buildstepignore"
    path.write_text("ok\n!keep\n- x\n")
    found = faults(build)
    assert found.keys() == {f"{path}, line 2", f"{path}, line 3"}
    path.write_bytes(b"\xff")
    assert "is not UTF-8" in faults(build)[str(path)]
