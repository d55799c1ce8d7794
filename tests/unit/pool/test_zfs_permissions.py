"""What `zfs allow` prints, read for one user. The text is the command's own, of OpenZFS 2.1."""

from __future__ import annotations

import pytest

from buildstep.pool import zfs_permissions

DATASET = "zones/agent/data"
TOLD = """\
---- Permissions on zones/agent/data ---------------------------------
Permission sets:
\t@build clone,create
\t@more @build,send
Create time permissions:
\tdestroy
Local permissions:
\tuser ann snapshot
Descendent permissions:
\tgroup ci rename
Local+Descendent permissions:
\tuser ann @build
\tuser bob @more
\teveryone receive
---- Permissions on zones --------------------------------------------
Permission sets:
\t@build destroy,sync
Local permissions:
\tuser ann readonly
Local+Descendent permissions:
\tuser 1000 atime
"""


@pytest.mark.parametrize(
    ("users", "groups", "expected"),
    [
        (["ann"], [], {"@build", "clone", "create", "snapshot", "receive", "destroy"}),
        (
            ["ann", "1000"],
            ["ci"],
            {"@build", "clone", "create", "snapshot", "receive", "destroy", "atime", "rename"},
        ),
        (["bob"], [], {"@more", "@build", "send", "clone", "create", "receive", "destroy"}),
        (["eve"], ["ann"], {"receive", "destroy"}),
    ],
)
def test_what_a_user_has(users: list[str], groups: list[str], expected: set[str]) -> None:
    assert zfs_permissions.granted(TOLD, DATASET, users=users, groups=groups) == expected


@pytest.mark.parametrize("told", ["", "\n", "something else entirely\n\tuser\n"])
def test_nothing_is_had_where_nothing_is_told(told: str) -> None:
    assert zfs_permissions.granted(told, DATASET, users=["ann"], groups=[]) == set()
