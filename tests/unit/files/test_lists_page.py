"""The page of file lists names every form, note and loss, and only those that exist."""

from __future__ import annotations

import re
from pathlib import Path

from buildstep.files.lists import LISTS

TOP = Path(__file__).parents[3]
PAGE = (TOP / "docs/reference/file-lists.md").read_text()


def rows(heading: str) -> str:
    return PAGE.partition(f"\n## {heading}")[2].partition("\n## ")[0]


def test_every_form_is_named() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE.partition("\n## ")[0], re.MULTILINE) == [*LISTS]


def test_every_kind_of_note_and_loss_is_named() -> None:
    source = "".join(path.read_text() for path in sorted((TOP / "buildstep/files/lists").glob("*.py")))
    kinds = set(re.findall(r'\b(?:note|add|leave_out)\(\s*"([a-z-]+)"', source))
    kinds |= set(re.findall(r'^    "[a-z]": \("(\w+)"', source, re.MULTILINE))
    assert len(kinds) > 20
    first = re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \|", rows("Reading") + rows("Writing"), re.MULTILINE)
    assert {word for cell in first for word in re.findall(r"[a-z-]+", cell)} == kinds
