"""Private keys from files: every form, with and without a password, and what is told where one is wrong."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from buildstep.errors import SigningError
from buildstep.trust.keys import passwords, signer, signers
from buildstep.trust.keys.public import PublicKey, public_from, public_of
from tests.unit.trust.keys.pairs import Notes, pem_pair, private_key, signer_of, ssh_pair

pytest.importorskip("cryptography")

ALGORITHMS = ("ed25519", "ecdsa-p256", "rsa")
WORD = "correct horse"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("locked", [False, True])
def test_every_form_of_every_key(tmp_path: Path, algorithm: str, locked: bool) -> None:
    key = private_key(algorithm)
    word = WORD.encode() if locked else b""
    pairs = [pem_pair(tmp_path, key=key, password=word), ssh_pair(tmp_path, key=key, password=word)]
    if algorithm != "ed25519":
        pairs.append(pem_pair(tmp_path, "old", key=key, password=word, form="TraditionalOpenSSL"))
    bus = Notes()
    for private, public in pairs:
        found = signer(str(private), {"BUILDSTEP_KEY_PASSWORD": WORD}, bus=bus)
        other = public_of(public)
        assert (found.algorithm, found.public) == (algorithm, other)
        assert other.verify(b"message", found.sign(b"message"))
        assert not other.verify(b"messagf", found.sign(b"message"))
        assert not other.verify(b"message", b"")
        assert public_from(other.pem, "pem") == public_from(other.openssh.encode(), "line") == other
    assert bus.texts == []
    assert (WORD in bus.masked(WORD)) is not locked, "no log shows a password that was used"


@pytest.mark.commands("ssh-keygen", "openssl")
def test_keys_of_the_real_tools_and_their_fingerprint(tmp_path: Path) -> None:
    for name, kind in (("a", "ed25519"), ("b", "ecdsa"), ("c", "rsa")):
        path = tmp_path / name
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", WORD, "-f", path], check=True, timeout=60)
        shown = subprocess.run(["ssh-keygen", "-lf", path], check=True, capture_output=True, timeout=60)
        found = signer_of(path, {"COSIGN_PASSWORD": WORD})
        assert found.fingerprint == shown.stdout.decode().split()[1]
        assert public_of(path.with_suffix(".pub")) == found.public
    path = tmp_path / "pem"
    argv = [
        "openssl",
        "genpkey",
        "-algorithm",
        "ed25519",
        "-aes-256-cbc",
        "-pass",
        f"pass:{WORD}",
        "-out",
        str(path),
    ]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    assert signer_of(path, {"BUILDSTEP_KEY_PASSWORD": WORD}).algorithm == "ed25519"


def test_a_password_that_is_missing_or_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "at_terminal", lambda: False)
    for private, _ in (pem_pair(tmp_path, password=b"x"), ssh_pair(tmp_path, password=b"x")):
        with pytest.raises(SigningError, match=f"the key {private} has a password") as caught:
            signer_of(private)
        assert "BUILDSTEP_KEY_PASSWORD" in caught.value.hint
        for word in ("other word", ""):
            with pytest.raises(
                SigningError, match=f"in BUILDSTEP_KEY_PASSWORD does not open .*{private}"
            ) as caught:
                signer_of(private, {"BUILDSTEP_KEY_PASSWORD": word})
            assert "other word" not in f"{caught.value} {caught.value.detail} {caught.value.hint}"


def test_at_a_terminal_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, _ = pem_pair(tmp_path, password=b"right one")
    answers = iter(["wrong one", "right one"])
    monkeypatch.setattr(passwords, "at_terminal", lambda: True)
    monkeypatch.setattr(passwords, "asked", lambda prompt: next(answers))
    bus = Notes()
    assert signer_of(private, bus=bus).algorithm == "ed25519"
    assert bus.texts == ["that is not its password"]


def test_files_that_are_no_keys(tmp_path: Path) -> None:
    private, public = pem_pair(tmp_path)
    (tmp_path / "text").write_text("no key")
    (tmp_path / "large").write_bytes(bytes(70_000))
    for path, match in (
        (tmp_path / "nothing", "cannot read the key .*No such file"),
        (tmp_path, "cannot read the key"),
        (tmp_path / "text", "is not a private key"),
        (tmp_path / "large", "is not a key"),
        (public, "is not a private key"),
    ):
        with pytest.raises(SigningError, match=match) as caught:
            signer_of(path)
        assert str(path) in caught.value.message
        assert caught.value.hint
    for path in (private, tmp_path / "text"):
        with pytest.raises(SigningError, match="is not a public key"):
            public_of(path)


@pytest.mark.parametrize(("kind", "match"), [("p384", "on secp384r1"), ("rsa1024", "of 1024 bits")])
def test_keys_that_others_refuse_are_refused(tmp_path: Path, kind: str, match: str) -> None:
    private, public = pem_pair(tmp_path, key=private_key(kind))
    with pytest.raises(SigningError, match=match):
        signer_of(private)
    with pytest.raises(SigningError, match=match):
        public_of(public)


def test_a_key_that_others_can_read_is_told_of(tmp_path: Path) -> None:
    private, _ = pem_pair(tmp_path)
    private.chmod(0o640)
    bus = Notes()
    signer_of(private, bus=bus)
    assert bus.texts == [
        f"others can read or change the private key {private} (mode 0640): chmod 600 {private}"
    ]


def test_a_key_in_a_variable(tmp_path: Path) -> None:
    private, public = pem_pair(tmp_path)
    found = signer_of("env:CI_KEY", {"CI_KEY": private.read_text()})
    assert (found.public, found.where) == (public_of(public), "$CI_KEY")
    with pytest.raises(SigningError, match="the variable CI_KEY holds no key"):
        signer_of("env:CI_KEY")


def test_one_key_named_twice_signs_once(tmp_path: Path) -> None:
    key = private_key()
    pem, _ = pem_pair(tmp_path, key=key)
    ssh, _ = ssh_pair(tmp_path, key=key)
    assert len(signers([str(pem), str(ssh)], {}, bus=Notes())) == 1
    with pytest.raises(SigningError, match="no key is named"):
        signer_of("")


def test_a_public_key_of_minisign(tmp_path: Path) -> None:
    from buildstep.trust.signatures import minisign

    _, public = pem_pair(tmp_path)
    key: PublicKey = public_of(public)
    text = minisign.public_file(key)
    assert public_from(text, "x") == public_from(text.splitlines()[1], "x") == key
    with pytest.raises(SigningError, match="minisign"):
        public_from(b"untrusted comment: x\nAAAA\n", "x")


def test_a_place_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of an installed package is asked with what follows its name."""
    from buildstep.trust.keys import SIGNERS
    from buildstep.trust.keys.interface import KeySource, Signer
    from tests.unit.trust.keys.pairs import new_signer

    made, asked = new_signer(), []

    def row(text: str, source: KeySource) -> Signer:
        asked.append(text)
        return made

    monkeypatch.setattr(SIGNERS, "plugins", lambda note=None: {"kms": row})
    monkeypatch.setattr(SIGNERS, "_plugins", lambda note: ({"kms": row}, {}))
    assert signer_of("kms:release/1") is made
    assert asked == ["release/1"]
    with pytest.raises(SigningError, match="cannot read the key kmx:release"):
        signer_of("kmx:release")
