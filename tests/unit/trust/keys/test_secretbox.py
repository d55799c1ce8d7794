"""The box of cosign's key files: known answers, and what is refused."""

from __future__ import annotations

import base64
import json

import pytest

from buildstep.errors import SigningError
from buildstep.trust.keys import cosign_key
from buildstep.trust.keys.passwords import WrongPassword
from buildstep.trust.keys.secretbox import open_box

pytest.importorskip("cryptography")

# The example of NaCl's documentation ("Cryptography in NaCl", section 10).
KEY = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
NONCE = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
PLAIN = bytes.fromhex(
    "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f4"
    "1db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd4924ca1c60902e52"
    "f0a089bc76897040e082f937763848645e0705"
)
BOX = bytes.fromhex(
    "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b"
    "4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da"
    "99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5"
)


def test_a_box_that_others_made_opens() -> None:
    assert open_box(KEY, NONCE, BOX) == PLAIN


@pytest.mark.parametrize("at", [0, 15, 16, len(BOX) - 1])
def test_a_box_that_was_altered_does_not(at: int) -> None:
    box = bytearray(BOX)
    box[at] ^= 1
    assert open_box(KEY, NONCE, bytes(box)) is None


def test_another_key_and_what_is_too_short() -> None:
    assert open_box(bytes(32), NONCE, BOX) is None
    assert open_box(KEY, NONCE, BOX[:15]) is None
    assert open_box(KEY[:31], NONCE, BOX) is None


def _file(**changes: object) -> bytes:
    value = {
        "kdf": {"name": "scrypt", "params": {"N": 1024, "r": 8, "p": 1}, "salt": base64.b64encode(b"salt").decode()},
        "cipher": {"name": "nacl/secretbox", "nonce": base64.b64encode(NONCE).decode()},
        "ciphertext": base64.b64encode(BOX).decode(),
    }  # fmt: skip
    text = base64.b64encode(json.dumps(value | changes).encode())
    return b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n" + text + b"\n-----END X-----\n"


def test_key_files_that_are_damaged_or_want_too_much() -> None:
    assert cosign_key.is_cosign(_file())
    with pytest.raises(WrongPassword):
        cosign_key.opened(_file(), b"any", "k")
    kdf = {"name": "scrypt", "salt": "", "params": {"N": 1 << 30, "r": 8, "p": 1}}
    for data in (
        _file(kdf=kdf),
        _file(kdf=[]),
        _file(cipher={"name": "x"}),
        _file()[:60],
        _file(ciphertext=1),
    ):
        with pytest.raises(SigningError, match="k is a damaged key file of cosign"):
            cosign_key.opened(data, b"any", "k")
