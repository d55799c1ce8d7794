"""What a root that is made here has of the day on which it was made, put back to that of its packages.

Two agents that make a root of the same packages get the same files, but for two things: the times of what
scripts and the tools wrote, and the day in /etc/shadow on which an account was made. Neither may be later
than the newest Release file that the packages are from; so the same Release files give the same image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path

from buildstep.system.root import Root
from buildstep.tree.entry import FileList

_DAY = 86400
_TABLES = ("/etc/shadow", "/etc/shadow-")


def newest_of(lines: Iterable[str]) -> int:
    """Return the latest time that the Date fields of Release files have, in seconds since 1970; 0 for none.

    The field is that of RFC 2822, as Debian's repository format says.
    """
    found = [0]
    for row in lines:
        name, _, value = row.partition(":")
        if name == "Date":
            try:
                when = parsedate_to_datetime(value.strip())
                # Where it names no zone: that of the agent decides nothing.
                found.append(int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()))
            except ValueError:
                continue
    return max(found)


def settle_times(top: Path, entries: FileList | None, latest: int) -> None:
    """Let no time in a tree be later than `latest` (seconds since 1970).

    entries: what is known of the tree where the disk does not have all of it; changed too. Raises OSError.
    """
    limit = latest * 1_000_000_000
    for entry in (entries or {}).values():
        entry.mtime = min(entry.mtime, limit)
    name = os.fsencode(top)
    for folder, folders, files in os.walk(name):
        for path in (folder, *(os.path.join(folder, item) for item in (*folders, *files))):
            if os.lstat(path).st_mtime_ns > limit:
                os.utime(path, ns=(limit, limit), follow_symlinks=False)


def settle_accounts(root: Root, entries: FileList | None, days: range, latest: int) -> None:
    """Give accounts that were made on one of these days (since 1970) the day of `latest` (seconds) in
    /etc/shadow and its copy: shadow(5), "date of last password change".

    entries: as for `settle_times`; such a file is not hashed any more. Raises OSError.
    """
    for path in _TABLES:
        place = root.host_path(path)
        if place is None or not place.is_file():
            continue
        old = place.read_bytes()
        new = re.sub(
            rb"(?m)^([^:\n]*:[^:\n]*:)(\d+):",
            lambda row: b"%s%d:" % (row[1], latest // _DAY) if int(row[2]) in days else row[0],
            old,
        )
        if new == old:
            continue
        with place.open("r+b") as file:  # its owner and mode stay
            file.write(new)
            file.truncate()
        entry = (entries or {}).get(os.fsencode(path.lstrip("/")))
        if entry is not None:
            entry.size, entry.sha256, entry.text = len(new), "", b""


def days_of(begin: float, end: float) -> range:
    """Return the days from one time to another, both included, counted from 1970."""
    return range(int(begin) // _DAY, int(end) // _DAY + 1)
