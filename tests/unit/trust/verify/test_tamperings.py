"""What an attacker can do to what is signed, and the one exit code that each of it has."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from buildstep.trust.keys.interface import Signer
from buildstep.trust.policy import of_keys
from buildstep.trust.verify.from_files import from_files
from buildstep.trust.verify.judge import judge
from buildstep.trust.verify.report import Report
from tests import tamperings
from tests.unit.trust.verify import signed

UNSIGNED, WRONG_KEY = 30, 31


@pytest.fixture
def ours() -> Signer:
    return signed.key()


def verdict(path: Path, key: Signer) -> Report:
    return judge(from_files(path), of_keys([("release", key.public)]), signed.NOW)


def lines(path: Path, *signers: Signer) -> list[bytes]:
    """An envelope by each key: of an image's signature."""
    made = signed.statement({"hello": signed.manifest_of(path)})
    return [signed.envelope(made, signer) for signer in signers]


@pytest.mark.parametrize("name", tamperings.ENVELOPES)
def test_an_envelope(tmp_path: Path, ours: Signer, name: str) -> None:
    path = signed.oci(tmp_path)
    line, other = lines(path, ours, signed.key())
    signed.state_lines(tmp_path / "hello-1.0.0", [tamperings.envelope(name, line, other)])
    found = verdict(path, ours)
    assert found.code == (UNSIGNED if name == "no signature" else WRONG_KEY), list(found.lines())
    assert found.error() is not None


@pytest.mark.parametrize("name", tamperings.DETACHED)
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_file_and_its_signature(tmp_path: Path, kind: str, name: str) -> None:
    """In a bundle without a digest, so that it is the signature itself that tells."""
    key, stranger, path = signed.key(kind), signed.key(kind), signed.plain(tmp_path)
    data = path.read_bytes()
    tampered = tamperings.DETACHED[name](
        tamperings.Signed(data, key.sign(data)), tamperings.Signed(data, stranger.sign(data))
    )
    value = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": key.public.hint}},
        "messageSignature": {"signature": base64.b64encode(tampered.signature).decode()},
    }
    (tmp_path / "hello-1.0.0.sigstore.json").write_text(json.dumps(value))
    path.write_bytes(tampered.data)
    assert verdict(path, key).code == WRONG_KEY


@pytest.mark.parametrize("name", tamperings.LINES)
def test_a_damaged_line_does_not_count_and_hides_none(tmp_path: Path, ours: Signer, name: str) -> None:
    path = signed.oci(tmp_path)
    (line,) = lines(path, ours)
    stated = tmp_path / "hello-1.0.0.intoto.jsonl"
    stated.write_bytes(tamperings.LINES[name](line + b"\n" + line + b"\n"))
    assert verdict(path, ours).code == 0


@pytest.mark.parametrize("end", ["sig", "minisig", "sigstore.json"])
def test_each_form_tells_the_file_that_was_altered(tmp_path: Path, ours: Signer, end: str) -> None:
    path = signed.plain(tmp_path)
    signed.sign(path, ours)
    for other in {"sig", "minisig", "sigstore.json"} - {end}:
        (tmp_path / f"hello-1.0.0.{other}").unlink()
    path.write_bytes(tamperings.flipped(path.read_bytes()))
    assert verdict(path, ours).code == WRONG_KEY
