"""A spec loaded in a directory of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from buildstep.spec.document import read_document
from buildstep.spec.fields import (
    BuildSpec,
)
from buildstep.spec.load import load
from tests.unit.specdata import CHOICES, GOOD, Load


@pytest.fixture
def build(tmp_path: Path) -> Load:
    """load() in a directory with a proto directory, for a document or text."""
    (tmp_path / "proto").mkdir()

    def call(document: object = GOOD, **more: Any) -> BuildSpec:
        text = document if isinstance(document, str) else json.dumps(document)
        here: dict[str, Any] = {"cwd": tmp_path, "environ": more.pop("environ", {})}
        flags = more.pop("flags", {})
        argument = more.pop("manifest_arg", text)
        return load(read_document(argument, **here, **more), flags=flags, choices=CHOICES, **here)

    return call
