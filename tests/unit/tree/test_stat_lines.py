"""What lstat says of a tree, in lines: ours and those of GNU find are the same."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from buildstep.system import process, workers
from buildstep.tree import stat_lines

pytestmark = pytest.mark.commands  # find, real and broken


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Names and times that are easily got wrong."""
    top = tmp_path / "-top"
    (top / "new\nline").mkdir(parents=True)
    raw = os.fsencode(top)
    for raw_name in (b"tab\tx", b"inv\xff", b"new\nline/a b", b"100%s", b"\\n"):
        Path(os.fsdecode(raw + b"/" + raw_name)).write_bytes(raw_name)
    os.link(top / "100%s", top / "linked")
    os.mkfifo(top / "fifo")
    os.symlink("nowhere", top / "link")
    for name, when in (("100%s", -1_750_000_000), ("tab\tx", 500_000_000), ("inv\udcff", 1)):
        os.utime(top / name, ns=(when, when))
    (top / "\\n").chmod(0o4711)
    return top


def lines(top: Path, *, large: bool) -> list[bytes]:
    unread: dict[bytes, OSError] = {}
    with stat_lines.listing(os.fsencode(top), large=large, unread=unread) as found:
        rows = found()
    assert not unread
    return rows


def test_find_says_what_we_say(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("find") is None:
        pytest.skip("find is not installed")
    help_text = subprocess.run(["find", "--version"], capture_output=True, text=True, check=False).stdout
    if "GNU" not in help_text:
        pytest.skip("find is not GNU find")
    ours = lines(odd, large=False)
    monkeypatch.setattr(stat_lines, "walk", lambda _top: pytest.fail("find did not do it"))
    assert sorted(lines(odd, large=True)) == sorted(ours)


def test_a_line_tells_what_lstat_tells(odd: Path) -> None:
    found = {stat_lines.path_of(line): line for line in lines(odd, large=False)}
    assert len(found) == len(list(odd.rglob("*")))
    for path, line in found.items():
        info, seen = os.lstat(os.fsencode(odd) + b"/" + path), stat_lines.parse(line)
        assert (seen.inode, seen.size, seen.uid, seen.gid) == (
            info.st_ino, info.st_size, info.st_uid, info.st_gid
        )  # fmt: skip
        assert (seen.mtime, seen.ctime, seen.links) == (info.st_mtime_ns, info.st_ctime_ns, info.st_nlink)
        assert seen.mode == info.st_mode & 0o7777
        assert stat_lines.kind(line) == seen.kind
    assert stat_lines.parse(found[b"100%s"]).linked
    assert not stat_lines.parse(found[b"new\nline"]).linked


@pytest.mark.parametrize("cores", [1, 2, 5])
@pytest.mark.parametrize("name", ["plain", "-dash", "!not", "(open"])
def test_several_finds_share_a_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, name: str
) -> None:
    top = tmp_path / "top"
    (top / name / "a/b").mkdir(parents=True)
    (top / "beside").mkdir()
    (top / "dead").symlink_to("nowhere")
    (top / "folder").symlink_to("beside")
    for number in range(40):
        (top / name / f"a/b/{number}").touch()
    calls: list[list[str]] = []
    spawn = process.spawn

    def counted(argv: list[str], **how: Any) -> Any:
        calls.append(argv)
        return spawn(argv, **how)

    monkeypatch.setattr(process, "spawn", counted)
    monkeypatch.setattr(workers, "cores", lambda: cores)
    monkeypatch.setattr(stat_lines, "walk", lambda _top, _unread: pytest.fail("find did not do it"))
    found = lines(top, large=True)
    monkeypatch.undo()
    assert sorted(found) == sorted(lines(top, large=False))
    assert len(calls) == (cores if name == "plain" else 1)
    seen = {b""}
    for path in map(stat_lines.path_of, found):
        assert path.rpartition(b"/")[0] in seen
        seen.add(path)


def test_finds_of_which_one_does_not_start_are_done_without(
    odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    spawn = process.spawn

    def second_fails(argv: list[str], **how: Any) -> Any:
        calls.append(argv)
        if len(calls) == 2:
            raise OSError("no more processes")
        return spawn(argv, **how)

    monkeypatch.setattr(process, "spawn", second_fails)
    monkeypatch.setattr(workers, "cores", lambda: 2)
    assert lines(odd, large=True) == lines(odd, large=False)
    assert len(calls) == 2


@pytest.mark.parametrize("script", ["exit 1", "kill -9 $$", "echo busybox does not know -printf >&2; exit 1"])
def test_a_find_that_fails_is_done_without(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    tool = tmp_path / "bin/find"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    assert process.find("find") == str(tool)
    assert lines(odd, large=True) == lines(odd, large=False)


def test_a_top_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    for large in (False, True):
        with pytest.raises(FileNotFoundError):
            lines(tmp_path / "nothing", large=large)
