"""The examples of m.json in the pages say what a build accepts, also those that no test runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from buildstep.cli.choices import choices
from buildstep.spec.load import check_document

DOCS = Path(__file__).resolve().parents[3] / "docs"
BLOCK = re.compile(r"^```json\n(.*?)^```", re.MULTILINE | re.DOTALL)


def manifest_of(text: str) -> dict[str, Any] | None:
    """The m.json that an example is, or is a part of; None for one of something else.

    A row of `run` has a name and what runs; members without braces are of `build`.
    """
    try:
        value = json.loads(text)
    except ValueError:
        return {"build": json.loads(f"{{{text}}}")} if text.lstrip().startswith('"') else None
    if not isinstance(value, dict):
        return None
    if "name" in value and value.keys() & {"argv", "script", "file"}:
        return {"build": {"run": [value]}}
    return value if "build" in value else None


def examples() -> list[tuple[str, dict[str, Any]]]:
    """Every example that is an m.json or a part of one, with where it is."""
    found = []
    for page in sorted(DOCS.rglob("*.md")):
        for number, text in enumerate(BLOCK.findall(page.read_text()), 1):
            if (value := manifest_of(text)) is not None:
                found.append((f"{page.relative_to(DOCS)}:{number}", value))
    return found


@pytest.mark.parametrize(
    ("where", "value"), examples(), ids=lambda part: part if isinstance(part, str) else ""
)
def test_an_example_is_a_good_manifest(where: str, value: dict[str, Any]) -> None:
    own = {key: part for key, part in value.items() if key not in ("include", "profiles")}
    assert check_document({"name": "a", "version": "1", **own}, choices()) == []


def test_there_are_examples() -> None:
    assert len(examples()) > 5
