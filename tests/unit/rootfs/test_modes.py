"""Modes by rule, compared with what chmod(1) makes of the same words."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from buildstep.rootfs.modes import ModeRule, apply_modes, changed
from buildstep.spec import schema
from buildstep.spec.accounts import MODE
from buildstep.system.root import Root

CHANGES = [
    "0640", "755", "4755", "a+x", "u+x,go-w", "u=rwX,go=rX", "o=", "g=u", "u=g,o=u", "a-rwx,u+rw", "ug+s", "+t",
    "u-s,g-s", "=r", "u=rwxs", "o+X", "go=u-w", "a=rwx-w+X", "g+s-x", "a=t", "ugo=", "o=t", "u=t",
]  # fmt: skip


@pytest.mark.commands("chmod")
@pytest.mark.parametrize("change", CHANGES)
def test_it_is_what_chmod_makes(change: str, tmp_path: Path) -> None:
    assert schema.check(change, MODE, "") == []
    previous = os.umask(0)  # chmod leaves out what the umask has, where nobody is named
    try:
        for folder in (False, True):
            path = tmp_path / f"{folder}"
            path.mkdir() if folder else path.touch()
            for before in (0o644, 0o755, 0o600, 0o4711, 0o2770, 0o1777, 0o000):
                if folder and change.isdecimal():
                    continue  # chmod keeps the set-id bits of a directory: for a rule the same is always the same
                path.chmod(before)
                subprocess.run(["chmod", change, os.fspath(path)], check=True)
                want = stat.S_IMODE(path.stat().st_mode)
                if folder and "=" in change:
                    want &= ~0o6000  # as above
                    assert changed(change, before, folder=folder) & ~0o6000 == want, oct(before)
                else:
                    assert changed(change, before, folder=folder) == want, oct(before)
    finally:
        os.umask(previous)


def test_directories_and_files_apart() -> None:
    assert changed("D0755,F0644", 0o700, folder=True) == 0o755
    assert changed("D0755,F0644", 0o700, folder=False) == 0o644
    assert changed("Du+s,Fo=", 0o644, folder=False) == 0o640
    for bad in ("D", "0999", "u+q", "", "u", "0644,", "X0644"):
        assert schema.check(bad, MODE, ""), bad


def test_the_first_pattern_that_matches_decides(tmp_path: Path) -> None:
    rule = ModeRule((("srv/*.sh", "0755"), ("srv", "D0750,F0640")))
    assert rule.of("srv/a.sh", 0o644, "f") == 0o755
    assert rule.of("srv/deep/b.sh", 0o644, "f") == 0o755, "a star matches slashes, as in owner"
    assert rule.of("srv/b", 0o644, "f") == 0o640
    assert rule.of("srv", 0o755, "d") == 0o750
    assert rule.of("etc/a.sh", 0o644, "f") == 0o644
    assert rule.of("srv/l", 0o777, "l") == 0o777


def test_copies_get_their_modes_and_a_hard_link_group_one(tmp_path: Path) -> None:
    proto, top = tmp_path / "proto", tmp_path / "root"
    for folder in (proto, top):
        folder.mkdir()
        (folder / "a").touch()
        os.link(folder / "a", folder / "b")
        (folder / "c").symlink_to("a")
        (folder / "d").mkdir()
    (top / "stays").touch(0o600)
    apply_modes(proto, Root(top), {name: name for name in "abcd"}, ModeRule((("b", "0600"), ("*", "0751"))))
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in top.iterdir() if not path.is_symlink()}
    assert modes == {"a": 0o751, "b": 0o751, "d": 0o751, "stays": 0o600}
