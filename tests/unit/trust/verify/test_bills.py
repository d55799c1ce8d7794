"""A bill of materials beside an image is the one that was stated, or the image is not verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from buildstep.trust.policy import of_keys
from buildstep.trust.verify.bills import altered
from buildstep.trust.verify.from_files import from_files
from buildstep.trust.verify.judge import judge
from buildstep.trust.verify.report import Report
from tests.unit.trust.verify import signed

SPDX = "https://spdx.dev/Document"


def judged(folder: Path, bill: dict[str, Any], beside: str, *more: bytes) -> Report:
    """The answer about a file whose bill was signed. beside: the bill's file; more: lines of others."""
    path, key = signed.plain(folder), signed.key()
    line = signed.envelope(signed.statement({path.name: signed.sha256(path)}, SPDX, bill), key)
    signed.sign(path, key)
    signed.state_lines(folder / "hello-1.0.0", [line, *more])
    (folder / "hello-1.0.0.spdx.json").write_text(beside)
    return judge(from_files(path), of_keys([("k", key.public)], ["sbom"]), signed.NOW)


def test_the_same_bill_in_whatever_spelling_is_sound(tmp_path: Path) -> None:
    assert judged(tmp_path, {"a": [1]}, json.dumps({"a": [1]}, indent=4)).code == 0


@pytest.mark.parametrize("beside", ['{"a": [2]}', "{", "[" * 100_000, ""])
def test_another_bill_was_altered(tmp_path: Path, beside: str) -> None:
    found = judged(tmp_path, {"a": [1]}, beside)
    assert found.code == 31
    assert found.reasons[0].startswith("hello-1.0.0.spdx.json is not the bill")


def test_what_others_state_does_not_make_it_sound(tmp_path: Path) -> None:
    path = signed.plain(tmp_path)
    line = signed.statement({path.name: signed.sha256(path)}, SPDX, {"a": [2]})
    others = (signed.envelope(line), signed.envelope(line, signed.key()))
    assert judged(tmp_path, {"a": [1]}, '{"a": [2]}', *others).code == 31


def test_a_bill_that_nobody_states_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "x.cdx.json").write_text("{}")
    assert altered(tmp_path / "x", [b"no envelope"]) == ""
