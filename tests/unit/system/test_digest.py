"""Size and digests of files and streams."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from buildstep.system.digest import Digester, Digests, Expected, HashingReader, digests_of

DATA = b"some bytes" * 300_000
REAL = Digests(len(DATA), hashlib.sha1(DATA).hexdigest(), hashlib.sha256(DATA).hexdigest())


def test_a_file_is_read_once_for_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    assert digests_of(tmp_path / "file") == REAL


def test_a_stream_is_hashed_to_its_end_however_it_is_read() -> None:
    reader = HashingReader(io.BytesIO(DATA))
    assert reader.read(7) == DATA[:7]
    assert reader.finish() == REAL


def test_only_what_is_asked_for_is_computed() -> None:
    digester = Digester("sha256", "md5")
    digester.update(DATA[:10])
    digester.update(DATA[10:])
    assert digester.result() == Digests(REAL.size, "", REAL.sha256)
    assert digester.digest("md5") == hashlib.md5(DATA).digest()


@pytest.mark.parametrize(
    ("expected", "wrong"),
    [
        (Expected(size=REAL.size, sha1=REAL.sha1, sha256=REAL.sha256), []),
        (Expected(size=0, sha1=REAL.sha1), [f"size {REAL.size}, not 0"]),
        (Expected(size=REAL.size, sha256="00"), [f"sha256 {REAL.sha256}, not 00"]),
        (Expected(size=1, sha1="00"), [f"size {REAL.size}, not 1", f"sha1 {REAL.sha1}, not 00"]),
    ],
)
def test_what_is_not_as_expected(expected: Expected, wrong: list[str]) -> None:
    assert expected.mismatches(REAL) == wrong


def test_one_digest_must_be_known() -> None:
    with pytest.raises(AssertionError, match="cannot be verified"):
        Expected(size=3)
