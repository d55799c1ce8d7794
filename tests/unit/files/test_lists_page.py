"""The page of file lists names every form, note, loss and numbered test, and only those that exist."""

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


def test_every_numbered_test_is_named_with_its_number() -> None:
    named = {
        (int(number), name)
        for number, text in re.findall(r"^\| (\d+) \| (.*)$", rows("Defects"), re.MULTILINE)
        for name in re.findall(r"`(test_\w+)`", text)
    }
    text = "".join(
        (Path(__file__).parent / name).read_text() for name in ("test_lists.py", "test_ays_store.py")
    )
    defined = re.findall(r"^def (test_ays_d(\d+)_\w+)", text, re.MULTILINE)
    assert named == {(int(number), name) for name, number in defined}
