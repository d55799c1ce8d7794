"""The numbers of users and groups by the tables of a tree, passwd(5) and group(5), never the CI host's."""

from __future__ import annotations

import os
import re
from typing import Protocol

from buildstep.errors import BuildstepError

TABLES = {"user": "etc/passwd", "group": "etc/group"}

_NUMBER = re.compile(r"[0-9]{1,10}")
"""What may be one: the tables are the image's, and may have anything there."""


class Readable(Protocol):
    """A tree whose files can be read by their paths, which begin with a slash; as `system.root.Root`."""

    def read(self, path: str) -> bytes: ...


def number_of(what: str, name: str, root: Readable) -> int | None:
    """Return the number of a user or group of the tree in `root`; None if its table has no such name.

    what: a key of TABLES. A name of digits is a number itself, and root is 0 without a table too.
    """
    if _NUMBER.fullmatch(name):
        return int(name)
    if name == "root":
        return 0
    try:
        return numbers(root.read("/" + TABLES[what])).get(name)
    except (OSError, BuildstepError):
        return None


def numbers(text: bytes) -> dict[str, int]:
    """Return the numbers of a table, passwd(5) or group(5), by name.

    Of two rows with the same name the first counts; what is no row is passed over.
    """
    found: dict[str, int] = {}
    for row in os.fsdecode(text).splitlines():
        fields = row.split(":")
        if len(fields) > 2 and _NUMBER.fullmatch(fields[2]):
            found.setdefault(fields[0], int(fields[2]))
    return found
