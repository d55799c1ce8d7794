"""Files whose name says that secrets may be in them: what counts there is the word before a value.

A password has no form. Only in these files is a value taken for one because of what it is called, and how
random its letters are: anywhere else such rules find words of people.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator, Mapping

from buildstep.trust.secrets import verdicts
from buildstep.trust.secrets.search import Hit, line_of, shown

Value = tuple[int, bytes]
"""Where a value is in a file, and what it is."""

Reader = Callable[[bytes], Iterator[Value]]

_LARGEST = 1 << 20
_SECRET = (
    rb"(?:[A-Za-z0-9_.-]*(?:password|passwd|passphrase|secret|token|api_?key|access_?key|private_?key|credential"
    rb"|auth_?key|encryption_?key|signing_?key|_pass|_pwd|_key))"
)
_ASSIGNED = re.compile(
    rb"^[ \t]*(?:export[ \t]+)?[\"']?"
    + _SECRET
    + rb"[\"']?[ \t]*[=:][ \t]*(?P<q>[\"']?)(?P<s>[^\s\"'#;]{6,500})(?P=q)",
    re.IGNORECASE | re.MULTILINE,
)
_NETRC = re.compile(rb"\b(?:password|passwd)[ \t\n]+(?P<s>\S{3,200})")
_NPMRC = re.compile(rb"(?:_authToken|_auth|_password)[ \t]*=[ \t]*[\"']?(?P<s>[^\s\"']{6,500})")
_PASSWORD = re.compile(
    rb"^[ \t]*password[ \t]*[=:][ \t]*[\"']?(?P<s>[^\s\"'#]{4,200})", re.MULTILINE | re.IGNORECASE
)
_PGPASS = re.compile(rb"^(?!#)(?:[^:\n]*:){4}(?P<s>[^\s:]{3,200})$", re.MULTILINE)
_KUBE = re.compile(
    rb"^[ \t-]*(?:token|password|client-key-data):[ \t]*[\"']?(?P<s>[^\s\"']{6,})", re.MULTILINE
)
_NO_VALUE = re.compile(
    rb"^(?:/|\./|\.\./|https?://|true$|false$|none$|null$|file:|arn:|\d+$|[a-z]+$|[a-z.]+\.[a-z]{2,}$)",
    re.IGNORECASE,
)


def _of(pattern: re.Pattern[bytes], real: Callable[[bytes], bool] = verdicts.is_password) -> Reader:
    def read(data: bytes) -> Iterator[Value]:
        for match in pattern.finditer(data):
            if real(match["s"]):
                yield match.start("s"), match["s"]

    return read


def _random(value: bytes) -> bool:
    """Say whether a value that is called a secret is one, and not a word, a path or a variable."""
    if _NO_VALUE.match(value) or not verdicts.is_password(value) or not verdicts.not_example(value):
        return False
    kinds = sum(bool(re.search(kind, value)) for kind in (rb"[a-z]", rb"[A-Z]", rb"[0-9]", rb"[^A-Za-z0-9]"))
    return len(value) >= 8 and kinds > 1 and verdicts.entropy(value) > (3.0 if len(value) > 12 else 2.5)


def _very_random(value: bytes) -> bool:
    return len(value) >= 16 and _random(value) and verdicts.random_looking(value)


def _docker(data: bytes) -> Iterator[Value]:
    """Yield what is in `auths` of a configuration of Docker: base64 of user and password."""
    try:
        said = json.loads(data)
        rows = said.get("auths", said).values()
    except (ValueError, AttributeError, RecursionError):
        return
    for row in rows:
        for key in ("auth", "identitytoken", "password") if isinstance(row, dict) else ():
            value = row.get(key)
            if isinstance(value, str) and len(value) > 3 and (key != "auth" or _is_login(value)):
                yield max(0, data.find(value.encode(errors="replace"))), value.encode(errors="replace")


def _is_login(value: str) -> bool:
    try:
        user, colon, password = base64.b64decode(value, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return False
    return bool(user and colon and password)


NAMES: Mapping[bytes, tuple[str, Reader]] = {
    b".netrc": ("a password of netrc", _of(_NETRC)),
    b"_netrc": ("a password of netrc", _of(_NETRC)),
    b".npmrc": ("a token of npm", _of(_NPMRC)),
    b".pypirc": ("a password of PyPI", _of(_PASSWORD)),
    b".pgpass": ("a password of PostgreSQL", _of(_PGPASS)),
    b".my.cnf": ("a password of MySQL", _of(_PASSWORD)),
    b".dockercfg": ("a login of Docker", _docker),
    b".dockerconfigjson": ("a login of Docker", _docker),
    b".docker/config.json": ("a login of Docker", _docker),
    b".config/containers/auth.json": ("a login of a registry", _docker),
    b"containers/auth.json": ("a login of a registry", _docker),
    b".kube/config": ("a login of Kubernetes", _of(_KUBE)),
    b"kubeconfig": ("a login of Kubernetes", _of(_KUBE)),
}
"""Files by name, or by the end of their path."""

_ENDS: Mapping[bytes, tuple[str, Reader]] = {
    b".env": ("a secret setting", _of(_ASSIGNED, _random)),
    b".tfvars": ("a secret setting", _of(_ASSIGNED, _random)),
    b".conf": ("a secret setting", _of(_ASSIGNED, _very_random)),
    b".cfg": ("a secret setting", _of(_ASSIGNED, _very_random)),
    b".ini": ("a secret setting", _of(_ASSIGNED, _very_random)),
    b".properties": ("a secret setting", _of(_ASSIGNED, _very_random)),
}
"""Files by how their names end: in these a value counts that is random."""

_QUICK = (*NAMES, *_ENDS)


def is_named(path: bytes) -> bool:
    """Say whether a file's name is one of these; quickly."""
    return path.endswith(_QUICK) or b"/.env." in path or path.startswith(b".env.")


def find(path: bytes, data: bytes) -> list[Hit]:
    """Return the secrets in a file of such a name."""
    name = path[path.rfind(b"/") + 1 :]
    if len(data) > _LARGEST:
        return []
    about, read = next(
        (row for end, row in NAMES.items() if path == end or path.endswith(b"/" + end)), ("", None)
    )
    rule = "named-file"
    if read is None:
        rule = "entropy"
        end = b".env" if name.startswith(b".env.") else b"." + name.rpartition(b".")[2]
        about, read = _ENDS.get(end, ("", None))
    if read is None or name.endswith((b".example", b".sample", b".template", b".dist")):
        return []
    return [Hit(rule, about, line_of(data, at), shown(value)) for at, value in read(data)]
