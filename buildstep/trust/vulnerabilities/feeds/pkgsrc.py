"""pkg-vulnerabilities of pkgsrc (NetBSD, SmartOS): lines of pattern, class and URL, signed in clear,
perhaps gzip.

"#FORMAT 1.1.0" comes before all rows. "#CHECKSUM SHA512 HEX" is over all lines but empty ones, those that
begin with "-----BEGIN", "Hash:", "# $NetBSD" or "#CHECKSUM", and what begins at "Version:" or the
signature. The checksum is verified; the signature is not, for which there is `pkg_admin
check-pkg-vulnerabilities -s`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from buildstep.errors import UsageError
from buildstep.trust.vulnerabilities.feeds.interface import Reading, Row, expanded
from buildstep.trust.vulnerabilities.model import Advisory
from buildstep.trust.vulnerabilities.ranges import alternatives

_LARGEST = 256 << 20
_FORMAT = re.compile(rb"#FORMAT[ \t]+1\.1\.0[ \t\r]*")
_CHECKSUM = re.compile(rb"#CHECKSUM[ \t]+(\S+)[ \t]+([0-9a-fA-F]+)[ \t\r]*")
_NOT_SUMMED = (b"-----BEGIN", b"Hash:", b"# $NetBSD", b"#CHECKSUM")
_DATED = re.compile(rb"# \$NetBSD: \S+ \S+ (\d{4}/\d\d/\d\d \d\d:\d\d:\d\d)")
_HASHES = {b"SHA512": "sha512", b"SHA1": "sha1"}
_NAME = re.compile(r"(?i)\b(CVE-\d{4}-\d{4,}|GHSA(?:-[0-9a-z]{4}){3})\b")

SCOPE = "pkgsrc"


def globs(name: str) -> str:
    """Return the name under which patterns are kept that may fit a package of this name: by its first word,
    as nobody can tell where the name ends in a glob."""
    return f"{name.partition('-')[0]}*"


ANY = "*"
"""The name of patterns that begin with a glob."""


class _Pkgsrc:
    def fits(self, head: bytes, name: str) -> bool:
        return re.search(rb"^#FORMAT[ \t]", head, re.MULTILINE) is not None

    def read(self, path: Path) -> Reading:
        reading = Reading(name="pkgsrc", rows=iter(()))
        reading.rows = _rows(path, reading)
        return reading


FORM = _Pkgsrc()


def _rows(path: Path, reading: Reading) -> Iterator[Row]:
    with expanded(path) as stream:
        data = stream.read(_LARGEST)
        if len(data) == _LARGEST:
            raise UsageError(f"{path} expands to too much")
    lines = data.split(b"\n")
    _check(path, data, lines)
    reading.updated, reading.dated = _when(path, data)
    begun = False
    for line in lines:
        if not begun:
            begun = line.startswith(b"#FORMAT")
        elif line.startswith((b"Version:", b"-----BEGIN")):
            return
        elif line.strip() and not line.startswith(b"#"):
            yield from _of_line(path, line, reading)


def _when(path: Path, data: bytes) -> tuple[float, str]:
    """Return when the content was current, and how that is known."""
    if dated := _DATED.search(data):
        try:
            found = datetime.strptime(dated[1].decode(), "%Y/%m/%d %H:%M:%S").replace(tzinfo=UTC)
            return found.timestamp(), "the file's own date"
        except ValueError:
            pass
    return path.stat().st_mtime, "the file's time"


def _check(path: Path, data: bytes, lines: list[bytes]) -> None:
    """Raise UsageError unless the file has a form that is known, is whole, and is what was published."""
    wrong = ""
    headed = [line for line in lines if line.startswith(b"#FORMAT")]
    if b"\0" in data or not data.endswith(b"\n"):
        wrong = "it is cut off, or no text"
    elif not headed or not _FORMAT.fullmatch(headed[0]):
        wrong = "it has another form than 1.1.0"
    else:
        sums = [match for line in lines if (match := _CHECKSUM.fullmatch(line))]
        if not sums:
            wrong = "it has no #CHECKSUM"
        for told in sums:
            if told[1] not in _HASHES:
                wrong = f"its #CHECKSUM is {told[1].decode(errors='replace')[:20]}, which is not known here"
            elif _sum(_HASHES[told[1]], lines[:-1]) != told[2].decode().lower():
                wrong = "it is not what its #CHECKSUM is of: damaged, or changed"
    if wrong:
        raise UsageError(f"{path}: {wrong}", hint="download it anew")


def _sum(name: str, lines: list[bytes]) -> str:
    digest = hashlib.new(name)
    for line in lines:
        if line.startswith(b"Version:"):
            break
        if line and not line.startswith(_NOT_SUMMED):
            digest.update(line + b"\n")
    return digest.hexdigest()


def _of_line(path: Path, line: bytes, reading: Reading) -> Iterator[Row]:
    parts = line.decode(errors="replace").split()
    if len(parts) < 3:
        raise UsageError(f"{path}: {line[:80]!r} has no class or no URL", hint="download it anew")
    pattern, kind, url = parts[:3]
    name = _NAME.search(url)
    try:
        found = alternatives(pattern)
    except ValueError:
        reading.skip("patterns whose braces do not match")
        return
    for one in found:
        upper = re.search(r"<([^<>=]+)$", one)
        advisory = Advisory(
            id=name[1] if name else url,
            order="pkgsrc",
            summary=kind.replace("-", " "),
            url=url,
            state="end-of-life" if kind == "eol" else "fixed" if upper else "open",
            fixed=upper[1] if upper else "",
            pattern=one,
        )
        yield Row(SCOPE, _key(one), advisory)


def _key(pattern: str) -> str:
    """Return the name under which a pattern is kept."""
    if limit := re.search("[<>]", pattern):
        return pattern[: limit.start()]
    if glob := re.search(r"[*?\[]", pattern):
        word, dash, _ = pattern[: glob.start()].partition("-")
        return f"{word}*" if dash else ANY
    return pattern.rpartition("-")[0]
