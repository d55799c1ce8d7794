"""What a proto directory that carries tables of users and groups would drop of an image's accounts.

A file of the proto directory takes the place of the image's. A checkout with an /etc/passwd of three lines
would leave every daemon of the base, and of its packages, without an account.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from buildstep.rootfs.account_tables import PATHS, Tables, lost
from buildstep.rootfs.accounts import Request, fill
from buildstep.rootfs.conflicts import Conflict
from buildstep.rootfs.placement import Kinds
from buildstep.system.root import Root

TABLES = {os.fsencode(path[1:]): name for name, path in PATHS.items()}
"""The tables by their paths in a proto directory."""


def carried(kind: Kinds) -> list[bytes]:
    """Return the tables that a proto directory has as files, by their paths in it."""
    return [path for path in TABLES if kind(path) == "f"]


def find(proto: Path, paths: Iterable[bytes], root: Root, asked: Request) -> list[Conflict]:
    """Return what tables of a proto directory (`paths`) drop of those of an image. asked: accounts that are
    made there before. Raises OSError for a table that cannot be read."""
    tables = Tables.read(root)
    fill(asked, tables, root)
    found = []
    for path in paths:
        name = TABLES[path]
        table = {"passwd": tables.passwd, "group": tables.group, "shadow": tables.shadow}.get(
            name, tables.gshadow
        )
        if drops := lost(name, table.text, (proto / os.fsdecode(path)).read_bytes()):
            found.append(Conflict(path=path, source=path, kind="f", drops=tuple(drops)))
    return found
