"""The table that all seams share: rows of ours and of other packages, broken ones, hints."""

from __future__ import annotations

from importlib import metadata

import pytest

from buildstep.errors import UsageError
from buildstep.system.registry import Registry, importing


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Registry[object]:
    points = [
        metadata.EntryPoint("broken", "no.such.module:X", "buildstep.colours"),
        metadata.EntryPoint("path", "pathlib:Path", "buildstep.colours"),
        metadata.EntryPoint("red", "pathlib:Path", "buildstep.colours"),
    ]

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        assert group == "buildstep.colours"
        return points

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    return Registry("colours", "colour", {"red": lambda: "RED", "green": lambda: "GREEN"})


def test_a_row_is_loaded_when_it_is_looked_up() -> None:
    loads: list[str] = []

    def one() -> str:
        loads.append("one")
        return "1"

    table: Registry[str] = Registry("x", "x", {"one": one})
    assert "one" in table
    assert list(table) == ["one"]
    assert len(table) == 1
    assert loads == []
    assert table["one"] == "1"
    assert loads == ["one"]


def test_a_factory_imports_on_use() -> None:
    factory = importing("fractions:Fraction")
    from fractions import Fraction

    assert factory() is Fraction
    with pytest.raises(ModuleNotFoundError):
        importing("no.such.module:X")()


def test_rows_of_other_packages_are_found_and_ours_win(table: Registry[object]) -> None:
    from pathlib import Path

    assert table.find("path") is Path
    assert table.find("red") == "RED"
    assert table.find("blue") is None
    assert table.plugins() == {"path": Path}
    assert table.names() == ["red", "green", "broken", "path"]
    assert list(table) == ["red", "green"]
    assert table.group == "buildstep.colours"


def test_a_broken_row_is_named_and_does_not_stop_the_rest(table: Registry[object]) -> None:
    notes: list[str] = []
    assert table.find("path", notes.append) is not None
    (note,) = notes
    assert "colour 'broken'" in note
    assert "no.such.module" in note
    with pytest.raises(UsageError, match=r"'broken' \(no\.such\.module:X\) does not load"):
        table.find("broken")


def test_our_rows_never_look_for_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*, group: str) -> None:
        raise AssertionError(group)

    monkeypatch.setattr(metadata, "entry_points", fail)
    assert Registry("x", "x", {"one": lambda: 1}).find("one") == 1


def test_a_wrong_name_gets_a_hint(table: Registry[object]) -> None:
    assert table.hint("gren") == "did you mean green?"
    assert table.hint("pth") == "did you mean path?"
    assert table.hint("zzz") == "one of red, green, broken, path"
