"""Limits on the size of an image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildstep.errors import ExitCode, GateError, SpecError
from tests.unit.build.workshop import Workshop, make_workshop

pytestmark = pytest.mark.commands("cp", "find", "rsync")  # trees are really walked and copied


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return make_workshop(tmp_path, monkeypatch)


def grow(workshop: Workshop, name: str, size: int) -> None:
    path = workshop.proto / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} if folder.exists() else {}


def test_too_large_gives_out_nothing_and_leaves_the_last_one(workshop: Workshop) -> None:
    workshop.build(compression="none")
    before = files(workshop.out)
    grow(workshop, "srv/big", 300_000)
    with pytest.raises(GateError, match=r"the image of hello has .*: max_size allows 100K") as caught:
        workshop.build(compression="none", max_size="100K")
    assert caught.value.code == ExitCode.GATE
    assert files(workshop.out) == before
    workshop.build(compression="none", max_size="1M")
    assert files(workshop.out) != before


def test_growth_is_told_with_what_grew(workshop: Workshop) -> None:
    grow(workshop, "srv/old", 50_000)
    workshop.build(compression="none", max_growth="1%")
    assert "no earlier image" in workshop.notes()
    grow(workshop, "srv/big", 300_000)
    grow(workshop, "srv/old", 80_000)
    with pytest.raises(GateError, match="max_growth allows 10%") as caught:
        workshop.build(compression="none", max_growth="10%")
    rows = [line.strip() for line in caught.value.detail.splitlines()]
    assert rows[0].startswith("/srv/big: ")
    assert rows[0].endswith("new")
    assert rows[1].startswith("/srv/old: ")
    assert rows[1].endswith("more")
    # It fails again, as the last image is still the one to compare with.
    with pytest.raises(GateError):
        workshop.build(compression="none", max_growth="10%")
    workshop.build(compression="none", max_growth="1M")
    workshop.build(compression="none", max_growth="0")


def test_outputs_that_stand_are_judged_as_well(workshop: Workshop) -> None:
    grow(workshop, "srv/big", 300_000)
    workshop.build(compression="none")
    with pytest.raises(GateError, match="max_size"):
        workshop.build(compression="none", max_size="200K")


def test_a_warning_is_one(workshop: Workshop) -> None:
    grow(workshop, "srv/big", 300_000)
    workshop.build(compression="none", max_size="1K", over_size="warn")
    assert "max_size allows 1K" in workshop.notes()


@pytest.mark.parametrize("wrong", ["5 cows", "-1", "10%", ""])
def test_a_size_that_is_none_is_refused(workshop: Workshop, wrong: str) -> None:
    with pytest.raises(SpecError) as caught:
        workshop.build(max_size=wrong)
    assert "max_size" in str(caught.value.faults[0])
