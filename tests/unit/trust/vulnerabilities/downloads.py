"""Advisories as they are downloaded, in each of their forms, written by hand after real ones."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

NOT_YET = "not yet assigned"


def release(status: str = "open", fixed: str = "", urgency: str = NOT_YET, **more: str) -> dict[str, Any]:
    """What Debian's tracker says of a problem in a release."""
    told: dict[str, Any] = {"status": status, "repositories": {"bookworm": "1.0-1"}, "urgency": urgency}
    if fixed:
        told["fixed_version"] = fixed
    return told | more


def problem(**releases: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": "A flaw \u2014 with \"quotes\" and {braces}", "scope": "remote", "debianbug": 1054290,
        "releases": releases,
    }  # fmt: skip


SID = release("resolved", "1:1.3.dfsg-3.1")
TRACKER: dict[str, dict[str, Any]] = {
    "zlib": {
        "CVE-2023-45853": problem(
            bookworm=release(nodsa="contrib/minizip not built", nodsa_reason="ignored"), sid=SID
        ),
        "CVE-2016-9840": problem(bookworm=release("resolved", "0"), sid=release("resolved", "0")),
    },
    "openssl": {
        "CVE-2024-5535": problem(
            bookworm=release("resolved", "3.0.14-1~deb12u1"), sid=release("resolved", "3.2.2-1")
        ),
        "CVE-2024-4741": problem(bookworm=release("resolved", "3.0.13-1~deb12u1")),
        "CVE-2024-9143": problem(
            bookworm=release(nodsa="Minor issue", nodsa_reason=""), sid=release("resolved", "3.3.2-2")
        ),
        "CVE-2025-0001": problem(bookworm=release(nodsa="Minor issue; later", nodsa_reason="postponed")),
    },
    "glibc": {
        "CVE-2019-1010022": problem(
            bookworm=release(urgency="unimportant"), sid=release(urgency="unimportant")
        ),
        "CVE-2026-0002": problem(bookworm=release("undetermined"), trixie=release("resolved", "0")),
        "CVE-2026-0003": problem(bookworm=release(urgency="high**")),
        "TEMP-0000000-4DA0A8": problem(bookworm=release(urgency="low")),
    },
    "webkit2gtk": {"CVE-2026-0004": problem(bookworm=release(urgency="end-of-life"))},
}


def tracker(path: Path, value: Mapping[str, Any] = TRACKER) -> Path:
    path.write_text(json.dumps(value))
    return path


def record(ident: str, *affected: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A record of OSV."""
    return {
        "schema_version": "1.7.5", "id": ident, "modified": "2026-11-20T10:00:00.123456Z",
        "summary": f"{ident} in a word", "affected": list(affected), **more,
    }  # fmt: skip


def affected(
    ecosystem: str, name: str, *events: Mapping[str, str], kind: str = "ECOSYSTEM", **more: Any
) -> dict[str, Any]:
    ranges = [
        {"type": "GIT", "repo": "https://example.org/x", "events": [{"introduced": "0"}, {"fixed": "beef"}]}
    ]
    if events:
        ranges.append({"type": kind, "events": list(events)})
    return {"package": {"ecosystem": ecosystem, "name": name}, "ranges": ranges, **more}


HIGH = [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:N"}]
PYPI = [
    record(
        "GHSA-j8r2-6x86-q33q",
        affected("PyPI", "Requests", {"introduced": "2.3.0"}, {"fixed": "2.31.0"}),
        aliases=["CVE-2023-32681"],
        severity=HIGH,
        database_specific={"severity": "MODERATE"},
    ),
    record(
        "PYSEC-2023-74",
        affected(
            "PyPI", "requests", {"introduced": "2.3.0"}, {"fixed": "2.31.0"}, versions=["2.3.0", "2.30.0"]
        ),
        aliases=["CVE-2023-32681", "GHSA-j8r2-6x86-q33q"],
    ),
    record(
        "PYSEC-2026-1", affected("PyPI", "requests", {"introduced": "0"}), withdrawn="2026-01-01T00:00:00Z"
    ),
    record("MAL-2026-1", affected("PyPI", "reqeusts", versions=["0.0.1"])),
    record(
        "GHSA-aaaa-bbbb-cccc",
        affected("PyPI", "both", {"introduced": "0"}, {"last_affected": "1.5"}),
        affected("npm", "both", {"introduced": "0"}, kind="SEMVER"),
    ),
]


def osv(path: Path, records: Iterable[Mapping[str, Any]] = PYPI) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for row in records:
            archive.writestr(f"{row['id']}.json", json.dumps(row))
    return path


PATTERNS = """\
# $NetBSD: pkg-vulnerabilities,v 1.620 2026/11/01 08:30:15 leot Exp $
#
#FORMAT 1.1.0
#
# Note: if this file format changes, please do not forget to update

# package		type of exploit		URL
libxml2<2.15.2\tdenial-of-service\thttps://nvd.nist.gov/vuln/detail/CVE-2026-1111
{apache,www-server}>=2.4<2.4.60nb1	multiple-vulnerabilities	https://httpd.example.org/security
php{74,8[0-9]}-[0-9]*	eol	https://www.php.net/eol.php
png-1.2.3	remote-code-execution	https://nvd.nist.gov/vuln/detail/CVE-2010-2222
openssl<=3.0.9	weak-cryptography	https://nvd.nist.gov/vuln/detail/CVE-2026-3333
"""


def pkgsrc(path: Path, text: str = PATTERNS, *, checksum: str = "") -> Path:
    """The file as it is published: signed in clear, with the checksum over what counts."""
    lines = [line for line in text.split("\n") if line and not line.startswith("# $NetBSD")]
    told = checksum or hashlib.sha512("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    head = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n"
    foot = "-----BEGIN PGP SIGNATURE-----\nVersion: GnuPG v2\n\niQEzBAEB=\n-----END PGP SIGNATURE-----\n"
    path.write_text(f"{head}{text}#CHECKSUM SHA512 {told}\n{foot}")
    return path


DEBSECAN = """\
VERSION 1
CVE-2024-5535,,A flaw, with commas
CVE-2026-0003,,Another

openssl,0, M F,3.2.2-1,3.0.14-1~deb12u1 3.0.15-1~deb12u1
glibc,1, H?\x20,,2.36-99

openssl,openssl libssl3
"""


def debsecan(path: Path, text: str = "") -> Path:
    rows = text or DEBSECAN.replace("openssl,0, M F", "openssl,0,SM?F").replace("glibc,1, H?", "glibc,1,SH?")
    path.write_bytes(zlib.compress(rows.encode()))
    return path
