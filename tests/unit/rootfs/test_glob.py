"""Paths inside a root by pattern and by walk; no link is followed."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.rootfs.glob import fitting, matches, walk
from buildstep.system.root import Root


@pytest.fixture
def root(tmp_path: Path) -> Root:
    top = tmp_path / "root"
    for name in ("var/log/a.log", "var/log/b.gz", "var/log/apt/c.log", "etc/x", "opt/one/y", "opt/two/y"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()
    (top / "opt/link").symlink_to("/etc")
    (top / "var/log/out").symlink_to(tmp_path)
    return Root(top)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("/var/log/*.log", ["/var/log/a.log"]),
        ("/var/log/[ab].*", ["/var/log/a.log", "/var/log/b.gz"]),
        ("/opt/*/y", ["/opt/one/y", "/opt/two/y"]),
        ("/opt/link", ["/opt/link"]),
        ("/opt/link/x", []),
        ("/etc/x", ["/etc/x"]),
        ("/etc/absent", []),
        ("/absent/*", []),
    ],
)
def test_a_pattern_matches_below_real_directories_only(root: Root, pattern: str, found: list[str]) -> None:
    assert list(matches(root, pattern)) == found


def test_mounts_are_left_out(root: Root) -> None:
    assert list(matches(root, "/opt/*/y", frozenset({"/opt/one"}))) == ["/opt/two/y"]
    assert list(walk(root, "/opt", frozenset({"/opt/one"}))) == ["/opt/link", "/opt/two/y"]


def test_a_walk_names_links_and_does_not_enter_them(root: Root) -> None:
    assert list(walk(root, "/var/log")) == [
        "/var/log/a.log", "/var/log/apt/c.log", "/var/log/b.gz", "/var/log/out",
    ]  # fmt: skip


def test_entries_are_sorted(root: Root) -> None:
    assert fitting(root, "", "*") == ["/etc", "/opt", "/var"]
