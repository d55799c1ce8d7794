"""Secrets as they lie about, and what only looks like one. None of them ever opened anything; no line of this
file has one as a whole, or the scanners of others would find it."""

from __future__ import annotations

import base64
import gzip
import json
import random
import zlib

from tests.unit.inventorydata import Content

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_AGE = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"
_random = random.Random(21)


def letters(size: int, alphabet: str = _ALPHABET) -> str:
    return "".join(_random.choices(alphabet, k=size))


def hexes(size: int) -> str:
    return letters(size, "0123456789abcdef")


def with_checksum(prefix: str) -> str:
    body = letters(30)
    value, text = zlib.crc32(body.encode()), ""
    for _ in range(6):
        value, digit = divmod(value, 62)
        text = _BASE62[digit] + text
    return prefix + body + text


def b64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def pem(kind: str, size: int = 1200, before: str = "") -> str:
    body = base64.b64encode(_random.randbytes(size)).decode()
    rows = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return f"-----BEGIN {kind}-----\n{before}{rows}\n-----END {kind}-----\n"


def indented(text: str) -> str:
    return "".join(f"    {row}\n" for row in text.splitlines())


PRIVATE = "PRIVATE " + "KEY"
JWT = f"{b64(json.dumps({'alg': 'HS256', 'typ': 'JWT'}))}.{b64(json.dumps({'sub': '42'}))}.{letters(43)}"
PASSWORD = "t7Kp" + "-x9Qz_4w"
LOGIN = base64.b64encode(f"ci:{PASSWORD}".encode()).decode()
ENCRYPTED = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0123\n\n"
DIGITS = "0123456789"

PLANTED: dict[str, tuple[Content, str]] = {
    "srv/a.py": (f'KEY = "AK{"IA"}{letters(16, _BASE32)}"\n', "aws-access-key"),
    "root/.aws/credentials": (f"[default]\naws_secret_access_key = {letters(40)}\n", "aws-secret-key"),
    "srv/aws.json": (json.dumps({"SecretAccessKey": letters(40)}), "aws-secret-key"),
    "srv/gh1": (f"token: {with_checksum('gh' + 'p_')}\n", "github-token"),
    "srv/gh2": (f"x\nexport T='{with_checksum('gh' + 's_')}'\n", "github-token"),
    "srv/gh3": (f"github{'_pat_'}{letters(22)}_{letters(59)}", "github-token"),
    "srv/gl1": (f"private_token=gl{'pat-'}{letters(20)}", "gitlab-token"),
    "srv/gl2": (f"gl{'rt-'}{letters(20)}\n", "gitlab-token"),
    "srv/slack1": (f"xo{'xb-'}{letters(12, DIGITS)}-{letters(12, DIGITS)}-{letters(24)}", "slack-token"),
    "srv/slack2": (
        f"https://hooks.slack.com/{'services'}/T{letters(8, 'ABC012')}/B{letters(8, 'ABC012')}/{letters(24)}",
        "slack-webhook",
    ),
    "srv/stripe.rb": (f"Stripe.api_key = 'sk{'_live_'}{letters(24)}'", "stripe-key"),
    "srv/stripe2.rb": (f"rk{'_live_'}{letters(99)}", "stripe-key"),
    "srv/maps.html": (f"<script src=https://maps.example/js?key=AI{'za'}{letters(35)}>", "google-api-key"),
    "srv/oauth": (f"GOC{'SPX-'}{letters(28)}", "google-oauth-secret"),
    "srv/gcp.json": (json.dumps({"type": "service_account", "private_key": pem(PRIVATE)}), "private-key"),
    "srv/npm": (f"//registry.example/:_authToken={with_checksum('np' + 'm_')}\n", "npm-token"),
    "root/.npmrc": (f"//registry.example/:_authToken={letters(36)}\n", "named-file"),
    "srv/pypi": (f"pypi{'-AgEIcHlwaS5vcmc'}{letters(120)}", "pypi-token"),
    "root/.pypirc": (f"[pypi]\nusername = me\npassword = {PASSWORD}\n", "named-file"),
    "srv/docker": (f"docker login -p dckr{'_pat_'}{letters(27)}", "docker-token"),
    "root/.docker/config.json": (json.dumps({"auths": {"reg.example": {"auth": LOGIN}}}), "named-file"),
    "srv/vault": (f"VAULT_TOKEN=hv{'s.'}{letters(24)}\n", "vault-token"),
    "srv/age": (f"AGE-SECRET{'-KEY-1'}{letters(58, _AGE)}\n", "age-key"),
    "srv/ai": (f"sk-{'ant-api03-'}{letters(93)}AA", "anthropic-key"),
    "srv/ai2": (f"OPENAI_API_KEY=sk-{'proj-'}{letters(80)}", "openai-key"),
    "srv/do": (f"dop{'_v1_'}{hexes(64)}", "digitalocean-token"),
    "srv/hf": (f"h{'f_'}{letters(34, _ALPHABET[:52])}", "huggingface-token"),
    "srv/sg": (f"'SG{'.'}{letters(22)}.{letters(43)}'", "sendgrid-key"),
    "srv/shop": (f"shp{'at_'}{hexes(32)}", "shopify-token"),
    "srv/jwt.js": (f"const t = '{JWT}';", "jwt"),
    "srv/azure": (f"AccountName=a;Account{'Key='}{letters(86)}==;Endpoint=x", "azure-storage-key"),
    "srv/azure2": (f"client: {letters(3)}8{'Q~'}{letters(34)}\n", "azure-client-secret"),
    "root/.ssh/id_ed25519": (pem(f"OPENSSH {PRIVATE}", 260), "private-key"),
    "etc/ssl/key.pem": (pem(f"RSA {PRIVATE}"), "private-key"),
    "etc/ssl/locked.pem": (pem(f"RSA {PRIVATE}", before=ENCRYPTED), "private-key"),
    "srv/key.yaml": ("key: |\n" + indented(pem(f"EC {PRIVATE}", 120)), "private-key"),
    "srv/gpg.asc": (pem(f"PGP {PRIVATE} BLOCK", before="\n"), "private-key"),
    "srv/mirror.list": (f"deb https://ci:{PASSWORD}@apt.example.org/ stable main\n", "url-password"),
    "root/.git-credentials": (f"https://me:{letters(20)}@git.example.org\n", "url-password"),
    "root/.netrc": (f"machine git.example.org\n  login ci\n  password {PASSWORD}\n", "named-file"),
    "srv/app/.env": (f"DEBUG=1\nDB_PASSWORD={PASSWORD}\n", "entropy"),
    "etc/app.conf": (f"listen = 80\nsession_secret = '{letters(32)}'\n", "entropy"),
    "srv/conf.gz": (gzip.compress(f"a\ntoken=gl{'pat-'}{letters(20)}\n".encode()), "gitlab-token"),
    "srv/bundle.js": ("x" * 70_000 + f";k='gl{'pat-'}{letters(20)}';" + "y " * 70_000, "gitlab-token"),
    "usr/bin/tool": (
        b"\x7fELF" + bytes(5000) + with_checksum("gh" + "o_").encode() + bytes(90),
        "github-token",
    ),
}
"""Path, content, and the rule that finds it."""

HARMLESS: dict[str, Content] = {
    "a.md": "Use `https://user:password@host/` or https://$USER:${TOKEN}@host, or http://a:b@c.\n",
    "b.py": 'URL = f"https://{user}:{password}@{host}"; x = "postgres://postgres:postgres@db/app"\n',
    "c.lock": "".join(f"sha512-{letters(86)}== {hexes(64)} {hexes(40)}\n" for _ in range(50)),
    "d.go": 'const begin = "-----BEGIN PRIVATE KEY-----"\nif !HasPrefix(s, "-----BEGIN RSA PRIVATE KEY-----") {\n',
    "e.txt": "AKIAIOSFODNN7EXAMPLE wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY aws_secret_access_key = <key>\n",
    "f.js": "var ghp_function_name_that_is_long_enough = sk_live_wire; npm_config_registry_of_the_whole_company_x\n",
    "g.pem": pem("CERTIFICATE") + pem("PUBLIC KEY") + "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + letters(40),
    "srv/.env": "PASSWORD=${DB_PASSWORD}\nTOKEN=changeme\nSECRET_KEY_FILE=/run/secrets/key\nAPI_KEY=\n",
    "srv/prod.env": "DB_PASSWORD=password123\nSECRET=\n",
    "root/.npmrc": "//registry.example/:_authToken=${NPM_TOKEN}\nregistry=https://registry.example/\n",
    "root/.netrc": "# machine host login me password ***\n",
    "etc/nginx.conf": "server { ssl_certificate_key /etc/ssl/key.pem; auth_token $http_token; }\n",
    "root/.docker/config.json": '{"auths": {"reg.example": {}}, "credsStore": "pass"}',
    "h.min.js": "!function(e){" + ",".join(f"{letters(3)}:{letters(30)}" for _ in range(500)) + "}",
    "i.bin": _random.randbytes(200_000),
    "j.svg": "data:image/png;base64," + base64.b64encode(_random.randbytes(60_000)).decode(),
    "k.jwt": f"{b64(json.dumps({'alg': 'none'}))}.{b64(json.dumps({'sub': 'x'}))}.{letters(30)}",
    "l.ini": "password = correct horse\ntoken = https://example.org/token\nsecret_name = projects/a/b\n",
}
