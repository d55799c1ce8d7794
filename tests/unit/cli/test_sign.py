"""`buildstep sign` and `buildstep keygen` as they are typed: results, exit codes, and no secret in what they say."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from buildstep import cli
from buildstep.trust.keys import passwords
from buildstep.trust.keys.public import public_of

pytest.importorskip("cryptography")

WORD = "hunter2-and-more"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (*passwords.VARIABLES, "BUILDSTEP_SIGN_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(passwords, "at_terminal", lambda: False)
    Path("blob").write_bytes(b"blob")


def test_a_key_is_made_and_signs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keygen", "k", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made == {
        "algorithm": "ed25519", "fingerprint": public_of(Path("k.pub")).fingerprint, "private": "k.key",
        "public": ["k.pub", "k.ssh.pub", "k.minisign.pub"],
    }  # fmt: skip
    assert cli.main(["sign", "blob", "--key", "k.key", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done == {
        "keys": [{"fingerprint": made["fingerprint"], "algorithm": "ed25519"}],
        "signed": [{"name": "blob", "artifacts": ["blob"], "statements": [], "left_out": [],
                    "written": ["blob.sig", "blob.sigstore.json", "blob.minisig"]}],
    }  # fmt: skip
    assert cli.main(["sign", "blob", "--key", "k.key"]) == 0
    assert capsys.readouterr().out == "blob: all signatures were there\n"


def test_the_key_may_come_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["keygen", "k"]) == 0
    monkeypatch.setenv("BUILDSTEP_SIGN_KEY", "k.key")
    assert cli.main(["sign", "blob"]) == 0
    assert Path("blob.sig").exists()


def test_a_password_opens_a_key_and_is_nowhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["keygen", "k", "--password"]) == 19
    assert "there is no password for the key k.key" in capsys.readouterr().err
    monkeypatch.setenv("BUILDSTEP_KEY_PASSWORD", WORD)
    assert cli.main(["keygen", "k", "--password"]) == 0
    assert cli.main(["sign", "blob", "--key", "k.key"]) == 0
    said = capsys.readouterr()
    monkeypatch.setenv("BUILDSTEP_KEY_PASSWORD", "another-word")
    assert cli.main(["--debug", "sign", "blob", "--key", "k.key"]) == 19
    wrong = capsys.readouterr()
    assert "the password in BUILDSTEP_KEY_PASSWORD does not open the key k.key" in wrong.err
    monkeypatch.delenv("BUILDSTEP_KEY_PASSWORD")
    assert cli.main(["sign", "blob", "--key", "k.key"]) == 19
    assert "has a password, and none is given" in capsys.readouterr().err
    text = said.out + said.err + wrong.out + wrong.err
    assert WORD not in text
    assert "another-word" not in text
    assert not any(WORD.encode() in path.read_bytes() for path in Path().iterdir())


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["sign", "blob"], 2, "Missing option"),
        (["sign", "blob", "--key", "no.key"], 19, "cannot read the key no.key: No such file or directory"),
        (["sign", "none", "--key", "k.key"], 2, "there is no none"),
        (["sign", "blob", "--key", "k.pub"], 19, "k.pub is not a private key"),
        (["sign", "blob", "--key", "agent"], 19, "SSH_AUTH_SOCK is not set"),
        (["sign", "blob", "--key", "env:NO_SUCH_KEY"], 19, "the variable NO_SUCH_KEY holds no key"),
        (["keygen", "k"], 19, "k.key is there already"),
        (["keygen", "k", "--type", "dsa"], 2, "'dsa' is not one of"),
        (["keygen", "no/k"], 19, "No such file or directory"),
    ],
)
def test_what_goes_wrong(
    argv: list[str],
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    assert cli.main(["keygen", "k"]) == 0
    before = sorted(os.listdir())
    capsys.readouterr()
    assert cli.main(argv) == status
    text = capsys.readouterr()
    assert said in text.err
    assert text.out == ""
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("argv", [["keygen", "n"], ["sign", "blob", "--key", "k.key"]])
def test_without_cryptography(
    argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["keygen", "k"]) == 0
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    assert cli.main(argv) == 5
    assert "pip install 'buildstep[signing]'" in capsys.readouterr().err


def test_without_python_pkcs11(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    assert cli.main(["sign", "blob", "--key", "pkcs11:object=x"]) == 5
    assert "pip install 'buildstep[pkcs11]'" in capsys.readouterr().err
