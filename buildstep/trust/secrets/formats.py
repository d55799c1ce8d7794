"""Secrets that can be told by their form: a row each, exact enough to be right whenever they match.

Prefixes and lengths are those that the issuers document, or that their tokens have. `quick` is how any of
them begins, after something that is no letter and no digit: the whole expression is tried only where that is
found in or just before a run of letters (`search`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from buildstep.trust.secrets import verdicts

Judge = Callable[[bytes], bool]


def _always(_value: bytes) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Format:
    """A row of the table. about: what it is, in a sentence after "has"; pattern: of the whole, the secret as
    group `s`; quick: how a part of it begins, in few steps; real: tells a secret from what only looks so;
    doubt: tells whether one that is not real is worth a warning."""

    name: str
    about: str
    quick: bytes
    pattern: bytes
    real: Judge = _always
    doubt: Judge = field(default=lambda _value: False)

    @property
    def compiled(self) -> re.Pattern[bytes]:
        """The expression: few of them are ever needed."""
        return _compiled(self.pattern)


@functools.cache
def _compiled(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern)


def _token(name: str, about: str, begin: bytes, rest: bytes, quick: bytes = b"") -> Format:
    """Return a row of a token: no letter before it, and none after it that could be its own."""
    return Format(
        name, about, quick or begin, rb"(?<![A-Za-z0-9])(?P<s>" + begin + rest + rb")(?![A-Za-z0-9_])"
    )


_WORD = rb"[A-Za-z0-9_-]"
_HEX = rb"[a-f0-9]"

FORMATS = (
    Format(
        "aws-access-key",
        "an access key of AWS",
        rb"A[KS]IA[A-Z0-9]{12}",
        rb"(?<![A-Za-z0-9+/])(?P<s>A[KS]IA[A-Z0-9]{16})(?![A-Za-z0-9+/=])",
        verdicts.is_aws_key,
        verdicts.random_looking,
    ),
    Format(
        "aws-secret-key",
        "a secret key of AWS",
        rb"(?:[aA]ws_?[sS]ecret|AWS_?SECRET|[sS]ecret_?[aA]ccess)",
        rb"(?i:(?:aws_?)?secret_?access_?key)[\"']?\s{0,8}(?:=|:|=>)\s{0,8}[\"']?"
        rb"(?P<s>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
        verdicts.random_looking,
    ),
    Format(
        "github-token",
        "a token of GitHub",
        rb"gh[pousr]_[A-Za-z0-9]{36}",
        rb"(?<![A-Za-z0-9])(?P<s>gh[pousr]_[A-Za-z0-9]{36})(?![A-Za-z0-9])",
        verdicts.has_checksum,
        verdicts.random_looking,
    ),
    _token("github-token", "a token of GitHub", rb"github_pat_", rb"[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    _token(
        "gitlab-token",
        "a token of GitLab",
        rb"gl(?:pat|dt|rt|ptt|cbt|ft|soat|agent|oas|imt|feat)-",
        _WORD + rb"{20,64}(?:\.[0-9a-z]{2}\.[0-9a-z]{9})?",
    ),
    _token(
        "slack-token",
        "a token of Slack",
        rb"xox[abeoprs]-",
        rb"(?:[0-9]{1,15}-)?[A-Za-z0-9][A-Za-z0-9-]{18,250}",
    ),
    _token("slack-token", "a token of Slack", rb"xapp-[0-9]-", rb"[A-Z0-9]{8,}-[0-9]{8,}-[a-z0-9]{32,}"),
    _token(
        "slack-webhook",
        "the address of a hook of Slack",
        rb"hooks\.slack\.com/services/",
        rb"T[A-Z0-9]{6,}/B[A-Z0-9]{6,}/[A-Za-z0-9]{20,}",
        rb"B[A-Z0-9]{6,14}/",
    ),
    _token("stripe-key", "a key of Stripe", rb"[rs]k_live_", rb"[A-Za-z0-9]{24,250}"),
    _token(
        "google-api-key", "a key of Google's API", rb"AIza", _WORD + rb"{35}", rb"AIza" + _WORD + rb"{30}"
    ),
    _token("google-oauth-secret", "a client's secret of Google", rb"GOCSPX-", _WORD + rb"{28}"),
    Format(
        "npm-token",
        "a token of npm",
        rb"npm_[A-Za-z0-9]{36}",
        rb"(?<![A-Za-z0-9])(?P<s>npm_[A-Za-z0-9]{36})(?![A-Za-z0-9])",
        verdicts.has_checksum,
        verdicts.random_looking,
    ),
    _token("pypi-token", "a token of PyPI", rb"pypi-AgE", _WORD + rb"{40,}"),
    _token("docker-token", "a token of Docker", rb"dckr_[po]at_", _WORD + rb"{20,}"),
    _token(
        "vault-token", "a token of Vault", rb"hv[bsr]\.", _WORD + rb"{24,}", rb"hv[bsr]\." + _WORD + rb"{20}"
    ),
    _token("age-key", "a key of age", rb"AGE-SECRET-KEY-1", rb"[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}"),
    _token("anthropic-key", "a key of Anthropic", rb"sk-ant-", _WORD + rb"{20,}"),
    _token("openai-key", "a key of OpenAI", rb"sk-(?:proj|svcacct|admin)-", _WORD + rb"{40,}"),
    _token(
        "openai-key",
        "a key of OpenAI",
        rb"sk-[A-Za-z0-9]{20}",
        rb"T3BlbkFJ[A-Za-z0-9]{20}",
        rb"sk-[A-Za-z0-9]{20}T3",
    ),
    _token("digitalocean-token", "a token of DigitalOcean", rb"do[opr]_v1_", _HEX + rb"{64}"),
    _token("huggingface-token", "a token of Hugging Face", rb"hf_[A-Za-z]{30}", rb"[A-Za-z]{4}"),
    _token(
        "sendgrid-key",
        "a key of SendGrid",
        rb"SG\.",
        _WORD + rb"{22}\." + _WORD + rb"{43}",
        rb"SG\." + _WORD + rb"{22}",
    ),
    _token("shopify-token", "a token of Shopify", rb"shp(?:at|ca|pa|ss)_", rb"[a-fA-F0-9]{32}"),
    _token("square-token", "a token of Square", rb"sq0(?:atp|csp)-", _WORD + rb"{22,43}"),
    _token(
        "databricks-token", "a token of Databricks", rb"dapi" + _HEX + rb"{20}", _HEX + rb"{12}(?:-[0-9])?"
    ),
    _token("linear-key", "a key of Linear", rb"lin_api_", rb"[A-Za-z0-9]{40}"),
    _token(
        "terraform-token",
        "a token of Terraform",
        rb"[A-Za-z0-9]{14}\.atlasv1\.",
        rb"[A-Za-z0-9_=-]{60,}",
        rb"atlasv1\.",
    ),
    _token("newrelic-key", "a key of New Relic", rb"NRAK-", rb"[A-Z0-9]{27}"),
    _token("grafana-token", "a token of Grafana", rb"glsa_", rb"[A-Za-z0-9]{32}_[a-fA-F0-9]{8}"),
    _token("grafana-token", "a token of Grafana", rb"glc_eyJ", rb"[A-Za-z0-9+/]{32,400}={0,3}"),
    _token(
        "sentry-token", "a token of Sentry", rb"sntry[su]_", rb"(?:eyJ[A-Za-z0-9+/=_-]{40,}|[a-f0-9]{64})"
    ),
    _token("pulumi-token", "a token of Pulumi", rb"pul-" + _HEX + rb"{30}", _HEX + rb"{10}"),
    _token("rubygems-key", "a key of RubyGems", rb"rubygems_", _HEX + rb"{48}"),
    _token("postman-key", "a key of Postman", rb"PMAK-", _HEX + rb"{24}-" + _HEX + rb"{34}"),
    _token("atlassian-token", "a token of Atlassian", rb"ATATT3", rb"[A-Za-z0-9_=-]{150,}"),
    _token(
        "bitbucket-token",
        "a token of Bitbucket",
        rb"ATBB",
        rb"[A-Za-z0-9]{24}[A-F0-9]{8}",
        rb"ATBB[A-Za-z0-9]{20}",
    ),
    _token("artifactory-key", "a key of Artifactory", rb"AKCp[0-9]", rb"[A-Za-z0-9]{60,}"),
    _token(
        "telegram-token",
        "a token of a Telegram bot",
        rb"[0-9]{8,10}:AA",
        _WORD + rb"{33}",
        rb"AA" + _WORD + rb"{30}",
    ),
    Format(
        "azure-storage-key",
        "a key of Azure's storage",
        rb"AccountKey=",
        rb"AccountKey=(?P<s>[A-Za-z0-9+/]{86}==)",
        verdicts.random_looking,
    ),
    Format(
        "azure-client-secret",
        "a client's secret of Azure",
        rb"Q~",
        rb"(?<![A-Za-z0-9_~.-])(?P<s>[A-Za-z0-9_~.-]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34})(?![A-Za-z0-9_~.-])",
        verdicts.random_looking,
    ),
    Format(
        "jwt",
        "a signed token (JWT)",
        rb"eyJ[A-Za-z0-9_-]{14}",
        rb"(?<![A-Za-z0-9_-])(?P<s>eyJ[A-Za-z0-9_-]{14,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,})",
        verdicts.is_jwt,
    ),
    Format(
        "private-key",
        "a private key",
        rb"PRIVATE KEY",
        rb"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----(?P<s>(?:\\r|\\n|[\s\"',+>|])+"
        rb"(?:[A-Za-z-]+: [^\n\\]{1,200}(?:\\r|\\n|\s)+){0,6}[A-Za-z0-9+/=]{12,}"
        rb"(?:(?:\\r|\\n|[\s\"',+>|])+[A-Za-z0-9+/=]+)*)",
        verdicts.is_key_body,
    ),
    Format(
        "private-key",
        "a private key of PuTTY",
        rb"PuTTY-User",
        rb"(?P<s>PuTTY-User-Key-File-[0-9]: [a-z0-9-]+\r?\n)",
    ),
)
"""One row a format. A name may come twice, where an issuer has two."""

URL = Format(
    "url-password",
    "an address with a password",
    b"://",
    rb"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{1,30}://(?P<u>[^\s/@:\"'<>`\\]{0,100}):(?!(?P=u)@)"
    rb"(?P<s>[^\s/@:\"'<>`\\]{5,200})@[A-Za-z0-9\[]",
    verdicts.is_password,
)
"""A password in an address, which has no form of its own: looked for in texts alone."""
