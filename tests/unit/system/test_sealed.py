"""JSON documents with a digest in them: nothing that changed is taken for what was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildstep.system import sealed

VALUE = {"format": 1, "text": 'a "check": "b"', "rows": [1, {"é": None}], "nothing": {}}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    sealed.write(path, VALUE)
    assert sealed.read(path) == VALUE
    value = json.loads(path.read_bytes())
    assert len(value.pop("check")) == 64
    assert value == VALUE


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    sealed.write(path, VALUE)
    good = path.read_bytes()
    wrong = [
        good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :]
        for at in range(len(good))
        for bit in range(8)
    ]
    wrong += [good[:at] for at in range(len(good))] + [good + b"\n", b"", json.dumps(VALUE).encode()]
    for data in wrong:
        path.write_bytes(data)
        with pytest.raises(sealed.Unsealed):
            sealed.read(path)


def test_a_file_that_is_missing_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sealed.read(tmp_path / "nothing")
