"""New pairs of keys: every form, and nothing overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.errors import SigningError
from buildstep.trust.keys.generate import TYPES, KeyType, keygen
from buildstep.trust.keys.public import public_of
from tests.unit.trust.keys.pairs import signer_of

pytest.importorskip("cryptography")


@pytest.mark.parametrize("kind", TYPES)
def test_all_files_are_of_one_key(tmp_path: Path, kind: KeyType) -> None:
    made, files = keygen(tmp_path / "ci", kind)
    names = ["ci.key", "ci.pub", "ci.ssh.pub", *["ci.minisign.pub"] * (kind == "ed25519")]
    assert [path.name for path in files] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert signer_of(files[0]).public == made.public
    assert {public_of(path).fingerprint for path in files[1:]} == {made.fingerprint}
    assert [path.stat().st_mode & 0o777 for path in files][:2] == [0o600, 0o644]


def test_a_password(tmp_path: Path) -> None:
    made, files = keygen(tmp_path / "ci", "ed25519", password=b"a password")
    assert b"ENCRYPTED" in files[0].read_bytes()
    assert signer_of(files[0], {"BUILDSTEP_KEY_PASSWORD": "a password"}).public == made.public


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "ci.ssh.pub").write_text("mine")
    with pytest.raises(SigningError, match=r"ci\.ssh\.pub is there already"):
        keygen(tmp_path / "ci", "ed25519")
    assert [path.name for path in tmp_path.iterdir()] == ["ci.ssh.pub"]
    with pytest.raises(SigningError, match="cannot write keys beside"):
        keygen(tmp_path / "nowhere" / "ci", "ed25519")


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from buildstep.system.files import write_all
    from buildstep.trust.keys import generate

    calls = []

    def full(fd: int, data: bytes) -> None:
        calls.append(fd)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        write_all(fd, data)

    monkeypatch.setattr(generate, "write_all", full)
    with pytest.raises(SigningError, match="No space left"):
        keygen(tmp_path / "ci", "ed25519")
    assert list(tmp_path.iterdir()) == []
