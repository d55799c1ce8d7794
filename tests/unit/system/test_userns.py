"""User namespaces: who a user is outside of one, and what is lacking to have one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildstep.errors import CommandFailed, ToolMissing
from buildstep.images.sources import mmdebstrap
from buildstep.system import process, root_namespace, userns

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="user namespaces are Linux's")


def test_owners_are_those_of_the_id_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "map"
    table.write_text("         0       1000          1\n         1     100000      65536\n")
    assert userns._outer(table) == 1000
    monkeypatch.setattr(userns, "_rows", lambda _table, rows=userns._rows: rows(table))
    assert userns.has_owner((0, 65536))
    assert not userns.has_owner((0, 65537))
    assert not userns.has_owner((1234567, 0))


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the kernel said is kept for the whole process."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    userns._refusal.cache_clear()
    yield
    userns._refusal.cache_clear()


@pytest.mark.usefixtures("untried")
def test_what_the_kernel_refuses_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def refuse(argv: list[str], **_: object) -> object:
        asked.append(argv)
        raise CommandFailed("unshare failed", 1, detail="unshare: mount /proc failed: EPERM\ncommand: x")

    monkeypatch.setattr(userns, "missing", list)
    monkeypatch.setattr(userns, "_max_user_namespaces", lambda: None)
    monkeypatch.setattr(process, "query", refuse)
    ((what, remedy),) = userns.lacks()
    assert what == "the kernel refused a user namespace: unshare: mount /proc failed: EPERM"
    assert "AppArmor" in remedy
    # All that a build makes there is tried: a command that found one and could not use it would end.
    assert {"--mount", "--pid", "--mount-proc"} <= set(asked[0])
    monkeypatch.setattr(userns, "_max_user_namespaces", lambda: 0)
    assert [row[0] for row in userns.lacks()] == ["user namespaces are forbidden"]
    monkeypatch.setattr(userns, "_max_user_namespaces", lambda: None)
    with pytest.raises(ToolMissing) as caught:
        mmdebstrap._as_root_of_a_namespace(["mmdebstrap"])
    assert caught.value.detail == f"  missing: {what} ({remedy})"
    assert len(asked) == 1, "the kernel is asked once"


@pytest.mark.usefixtures("untried")
def test_all_that_is_missing_is_told_and_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userns, "missing", lambda: [("no range", "usermod")])
    monkeypatch.setattr(userns, "_max_user_namespaces", lambda: 5)
    assert userns.lacks() == [("no range", "usermod")]
    monkeypatch.setattr(process, "query", lambda *_, **__: None)
    monkeypatch.setattr(userns, "missing", list)
    assert userns.lacks() == []


def test_root_that_may_not_mount_needs_no_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(userns, "_max_user_namespaces", lambda: 0)
    monkeypatch.setattr(root_namespace, "refusal", lambda: "the kernel refused a user namespace: EPERM")
    ((what, remedy),) = userns.lacks()
    assert (
        what
        == "this root may not mount (it lacks CAP_SYS_ADMIN), and the kernel refused a user namespace: EPERM"
    )
    assert "CAP_SYS_ADMIN" in remedy
    monkeypatch.setattr(root_namespace, "refusal", lambda: "")
    assert userns.lacks() == []


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ("0 0 4294967295\n", "0 0 2147483648\n2147483648 2147483648 2147483647\n"),
        ("0 1000 1\n1 100000 65536\n", "0 0 1\n1 1 65536\n"),
    ],
)
def test_ids_are_themselves_in_the_namespace_of_a_containers_root(
    tmp_path: Path, table: str, found: str
) -> None:
    (tmp_path / "map").write_text(table)
    assert root_namespace._identity(tmp_path / "map") == found


def test_the_first_range_of_this_user_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userns, "_user_name", lambda: "ann")
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    table = tmp_path / "subuid"
    assert userns.range_of(table) is None
    table.write_text("bob:1:2\nann:many:5\nodd\n1000:100000:65536\nann:7:8\n")
    assert userns.range_of(table) == (100000, 65536)
