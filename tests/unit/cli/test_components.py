"""Commands of components: what they say of themselves, and of options that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from buildstep import cli
from buildstep.cli import components

Run = Callable[..., tuple[int, str, str]]


def test_the_list_of_commands_says_what_can_be_done_with_components() -> None:
    text = cli.COMMANDS["components"][1]
    people = set(components.ROWS) - {"work"}  # which other machines start
    assert {name for name in people if name in text.replace(",", " ").replace(".", " ").split()} == people


def test_all_that_is_wrong_with_a_ticket_and_its_place_is_told_at_once(run: Run) -> None:
    status, out, err = run("components", "work", "--handover", "docker://host/name", "../x\x1b")
    assert (status, out) == (2, "")
    assert "has 0 stores" in err
    assert "TICKET: '../x?' is none" in err


def test_a_label_says_which_executors_know_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "work/src/low/build").mkdir(parents=True)
    (tmp_path / "work/src/low/build/build-pre.sh").write_text("#!/bin/sh\n")
    status, _, err = run("components", "build", "--state", f"{tmp_path}/state", "--worker-label", "big")
    assert status == 2
    assert "--worker-label is for those on other machines" in err
    assert not (tmp_path / "state").exists()
