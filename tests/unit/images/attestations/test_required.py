"""What is required of an image before it is published, where nobody says by whose keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildstep.errors import BuildstepError
from buildstep.images.attestations.required import Demand, check
from buildstep.trust import dsse
from buildstep.trust.verify.from_files import from_files
from tests.unit.trust.verify import signed


def code(path: Path, *require: str) -> int:
    try:
        check(from_files(path), Demand(require=require))
    except BuildstepError as error:
        return error.code
    return 0


def test_a_signature_of_these_bytes(tmp_path: Path) -> None:
    path = signed.plain(tmp_path)
    assert code(path, "signature") == 30
    signed.sign(path, signed.key())
    assert code(path, "signature") == 0


@pytest.mark.parametrize("text", [None, "", "AAAA\n", '{"mediaType": "x"}'])
def test_no_signature_of_other_bytes_and_no_rubbish(tmp_path: Path, text: str | None) -> None:
    path = signed.plain(tmp_path)
    signed.sign(path, signed.key())
    path.write_bytes(b"another image")
    if text is not None:
        for end in (".sig", ".minisig", ".sigstore.json"):
            (tmp_path / f"hello-1.0.0{end}").write_text(text)
    assert code(path, "signature") == 30


@pytest.mark.parametrize(
    ("result", "expected"), [("PASSED", 0), ("WARNED", 0), ("FAILED", 34), ("failed", 34), (None, 34)]
)
def test_tests_count_that_have_passed(tmp_path: Path, result: str | None, expected: int) -> None:
    path = signed.plain(tmp_path)
    stated = signed.statement({"x": signed.sha256(path)}, signed.TESTS, {"result": result})
    signed.state_lines(tmp_path / "hello-1.0.0", [signed.envelope(stated, signed.key())])
    assert code(path, "tests") == expected


def test_what_is_signed_as_something_else_is_no_statement(tmp_path: Path) -> None:
    path = signed.plain(tmp_path)
    stated = signed.statement({"x": signed.sha256(path)}, signed.PROVENANCE)
    signed.state_lines(tmp_path / "hello-1.0.0", [dsse.seal("text/plain", stated, [signed.key()])])
    assert code(path, "provenance") == 30


def test_an_image_that_was_altered(tmp_path: Path) -> None:
    layout = signed.oci(tmp_path)
    stated = signed.statement({"x": signed.manifest_of(layout)}, signed.PROVENANCE)
    signed.state_lines(tmp_path / "hello-1.0.0", [signed.envelope(stated, signed.key())])
    assert code(layout, "provenance") == 0
    index = json.loads((layout / "index.json").read_text())
    (layout / "index.json").write_text(json.dumps({**index, "Manifests": []}))
    assert code(layout, "provenance") == 31
