"""debsecan's feed of a release: zlib, then text. The file is named as the release: it does not tell which.

"VERSION 1"; problems, a line each: name,flags,description; a blank line; a line for each package and problem:
package,number of the problem,flags,version fixed in sid,other versions that are not affected; a blank line;
source packages with their binary packages. Flags: B for a binary package, urgency (L, M, H), remote, F for a
fix in the release.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cmp_to_key
from pathlib import Path

from buildstep.errors import UsageError
from buildstep.trust.vulnerabilities.feeds.interface import Reading, Row
from buildstep.trust.vulnerabilities.model import Advisory, Level
from buildstep.trust.vulnerabilities.orders import ORDERS
from buildstep.trust.vulnerabilities.scopes import DEBIAN, of_release

_URL = "https://security-tracker.debian.org/tracker"
_LARGEST = 256 << 20
_URGENCY: dict[str, Level] = {"L": "low", "M": "medium", "H": "high"}
_NAMES = frozenset((*DEBIAN.values(), "sid"))


class _Debsecan:
    def fits(self, head: bytes, name: str) -> bool:
        return head[:1] == b"\x78" and _expanded(head, 10) == b"VERSION 1\n"

    def read(self, path: Path) -> Reading:
        if path.name not in _NAMES:
            raise UsageError(
                f"{path} is debsecan's list of a release, but its name is none",
                hint=f"name it as the release: {', '.join(sorted(_NAMES))}",
            )
        reading = Reading(name=f"debsecan-{path.name}", rows=iter(()))
        reading.updated, reading.dated = path.stat().st_mtime, "the file's time"
        reading.rows = _rows(path, reading)
        return reading


FORM = _Debsecan()


def _expanded(data: bytes, limit: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, limit)
    except zlib.error:
        return b""


def _whole(path: Path) -> bytes:
    """Return all of the text. Raises UsageError for a file that is cut off, damaged, or a bomb."""
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(path.read_bytes(), _LARGEST)
    except zlib.error as error:
        raise UsageError(f"{path} is damaged: {error}", hint="download it anew") from error
    if len(text) >= _LARGEST:
        raise UsageError(f"{path} expands to too much")
    if not stream.eof:
        raise UsageError(f"{path} is cut off", hint="download it anew")
    return text


def _rows(path: Path, reading: Reading) -> Iterator[Row]:
    text = _whole(path)
    lines = iter(text.decode(errors="replace").split("\n"))
    try:
        if next(lines) != "VERSION 1":
            raise ValueError("it does not begin with VERSION 1")
        problems = []
        while line := next(lines):
            name, _flags, description = line.split(",", 2)
            problems.append((name, description))
        while line := next(lines):
            source, number, flags, unstable, others = line.split(",", 4)
            if flags[0] == "B":
                reading.skip("problems of binary packages")
                continue
            problem, description = problems[int(number)]
            advisory = _advisory(problem, description, flags, unstable, others.split())
            yield Row(of_release(path.name), source, advisory)
        next(lines)  # of the source packages; a list that was cut off ends before
    except (ValueError, IndexError, StopIteration) as error:
        raise UsageError(
            f"{path} is no whole list of debsecan{f': {error}' if str(error) else ''}",
            hint="download it anew",
        ) from None


def _advisory(problem: str, description: str, flags: str, unstable: str, others: list[str]) -> Advisory:
    fixed = ""
    if flags[3] == "F":
        fixed = max(others, key=cmp_to_key(ORDERS["dpkg"]), default=unstable)
    events: tuple[tuple[str, str], ...] = (("introduced", "0"),)
    return Advisory(
        id=problem,
        order="dpkg",
        summary=description,
        url=f"{_URL}/{problem}",
        severity=_URGENCY.get(flags[1], "unknown"),
        severity_source="Debian's urgency" if flags[1] in _URGENCY else "",
        state="fixed" if fixed else "open",
        fixed=fixed,
        ranges=((*events, ("fixed", unstable)) if unstable else events,),
        unaffected=tuple(others),
    )
