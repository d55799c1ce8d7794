"""Signatures of calls to S3, compared with those that botocore makes of the same calls."""

from __future__ import annotations

import random
import string
from urllib.parse import unquote

import pytest

from buildstep.net.s3_signing import EMPTY_SHA256, Keys, encoded_path, encoded_query, sign

NOW = 1_700_000_000.0
KEYS = Keys("AKTEST", "sk/test+secret", "")


def by_botocore(
    keys: Keys,
    method: str,
    target: str,
    headers: dict[str, str],
    sha256: str,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """The Authorization of the call that these headers are of; they hold the time and the digest."""
    import botocore.auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    auth = botocore.auth.S3SigV4Auth(
        Credentials(keys.access, keys.secret, keys.token or None), "s3", "eu-west-3"
    )
    path, _, query = target.partition("?")
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    request = AWSRequest(
        method=method,
        url=f"https://{headers['host']}{path}",
        headers=headers,
        params={unquote(name): unquote(value) for name, _, value in pairs},
    )
    request.context = {"timestamp": headers["x-amz-date"]}
    monkeypatch.setattr(auth, "payload", lambda _request: sha256)
    text = auth.string_to_sign(request, auth.canonical_request(request))
    signature = auth.signature(text, request)
    return (
        f"AWS4-HMAC-SHA256 Credential={auth.scope(request)}, "
        f"SignedHeaders={auth.signed_headers(auth.headers_to_sign(request))}, Signature={signature}"
    )


def test_botocore_signs_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(15)
    signs = string.ascii_letters + string.digits + "-._~+ =&%/:@é*'()"
    for _ in range(60):
        key = "".join(chance.choices(signs, k=chance.randint(0, 20))).replace("//", "/").lstrip("/")
        query = {
            "".join(chance.choices(string.ascii_lowercase, k=4)): "".join(chance.choices(signs, k=5))
            for _ in range(chance.randint(0, 3))
        }
        target = encoded_path("/bucket/" + key) + (f"?{encoded_query(query)}" if query else "")
        headers = {"host": "store.example:8333"}
        if chance.random() < 0.7:
            headers["content-type"] = "application/x-gtar"
            headers["x-amz-meta-sha256"] = "  two   words "
        keys = Keys("AKTEST", "sk/test+secret", chance.choice(["", "token+/="]))
        sha256 = chance.choice([EMPTY_SHA256, "ab" * 32, "UNSIGNED-PAYLOAD"])
        method = chance.choice(["GET", "PUT", "POST", "DELETE", "HEAD"])
        added = sign(keys, "eu-west-3", method, target, headers, body_sha256=sha256, now=NOW)
        ours = added.pop("authorization")
        assert ours == by_botocore(keys, method, target, {**headers, **added}, sha256, monkeypatch), target


def test_no_secret_is_shown() -> None:
    assert "sk/test" not in repr(KEYS)
    assert "tok" not in repr(Keys("a", "b", "tok"))
