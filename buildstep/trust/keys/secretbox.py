"""XSalsa20-Poly1305, as NaCl's `secretbox` has it: opened only, for files of keys of a few hundred bytes.

Salsa20 and HSalsa20 are those of D. J. Bernstein's papers "The Salsa20 family of stream ciphers" and
"Extending the Salsa20 nonce"; the package cryptography has Poly1305 and no Salsa20.
"""

from __future__ import annotations

import struct

KEY = 32
NONCE = 24
_TAG = 16
_BLOCK = 64
_SIGMA = struct.unpack("<4I", b"expand 32-byte k")
_ROUNDS = (
    (4, 0, 12, 7), (8, 4, 0, 9), (12, 8, 4, 13), (0, 12, 8, 18),
    (9, 5, 1, 7), (13, 9, 5, 9), (1, 13, 9, 13), (5, 1, 13, 18),
    (14, 10, 6, 7), (2, 14, 10, 9), (6, 2, 14, 13), (10, 6, 2, 18),
    (3, 15, 11, 7), (7, 3, 15, 9), (11, 7, 3, 13), (15, 11, 7, 18),
    (1, 0, 3, 7), (2, 1, 0, 9), (3, 2, 1, 13), (0, 3, 2, 18),
    (6, 5, 4, 7), (7, 6, 5, 9), (4, 7, 6, 13), (5, 4, 7, 18),
    (11, 10, 9, 7), (8, 11, 10, 9), (9, 8, 11, 13), (10, 9, 8, 18),
    (12, 15, 14, 7), (13, 12, 15, 9), (14, 13, 12, 13), (15, 14, 13, 18),
)  # fmt: skip
"""A double round: word `a` gets the sum of words `b` and `c`, turned left."""


def open_box(key: bytes, nonce: bytes, box: bytes) -> bytes | None:
    """Return what a box holds; None if this key did not close it, or it was altered."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.poly1305 import Poly1305

    if len(key) != KEY or len(nonce) != NONCE or len(box) < _TAG:
        return None
    state = _double_rounds(_words(key, nonce[:16]))
    inner = struct.pack("<8I", *(state[at] for at in (0, 5, 10, 15, 6, 7, 8, 9)))
    tag, sealed = box[:_TAG], box[_TAG:]
    stream = _stream(inner, nonce[16:], 32 + len(sealed))
    try:
        Poly1305.verify_tag(stream[:32], sealed, tag)
    except InvalidSignature:
        return None
    return bytes(a ^ b for a, b in zip(sealed, stream[32:], strict=True))


def _stream(key: bytes, nonce: bytes, size: int) -> bytes:
    found = b""
    for number in range(-(-size // _BLOCK)):
        begin = _words(key, nonce + struct.pack("<Q", number))
        end = _double_rounds(begin)
        found += struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(begin, end, strict=True)))
    return found[:size]


def _words(key: bytes, middle: bytes) -> list[int]:
    left, right, mid = (
        struct.unpack("<4I", key[:16]),
        struct.unpack("<4I", key[16:]),
        struct.unpack("<4I", middle),
    )
    return [_SIGMA[0], *left, _SIGMA[1], *mid, _SIGMA[2], *right, _SIGMA[3]]


def _double_rounds(words: list[int]) -> list[int]:
    state = list(words)
    for _ in range(10):
        for a, b, c, turn in _ROUNDS:
            total = (state[b] + state[c]) & 0xFFFFFFFF
            state[a] ^= ((total << turn) | (total >> (32 - turn))) & 0xFFFFFFFF
    return state
