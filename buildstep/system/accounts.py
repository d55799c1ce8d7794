"""The numbers of users and groups by the tables of a tree, passwd(5) and group(5), never the CI host's."""

from __future__ import annotations

import os
import re

from buildstep.errors import BuildstepError
from buildstep.system.root import Root

TABLES = {"user": "etc/passwd", "group": "etc/group"}

_NUMBER = re.compile(r"[0-9]{1,10}")
"""What may be one: the tables are the image's, and may have anything there."""


def number_of(what: str, name: str, root: Root) -> int | None:
    """Return the number of a user or group of the tree in `root`; None if its table has no such name.

    what: a key of TABLES. A name of digits is a number itself, and root is 0 without a table too.
    """
    if _NUMBER.fullmatch(name):
        return int(name)
    if name == "root":
        return 0
    try:
        text = os.fsdecode(root.read("/" + TABLES[what]))
    except (OSError, BuildstepError):
        return None
    for row in text.splitlines():
        fields = row.split(":")
        if len(fields) > 2 and fields[0] == name and _NUMBER.fullmatch(fields[2]):
            return int(fields[2])
    return None
