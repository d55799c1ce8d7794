"""What is left out of a copy, where a placement is copied by a run of rsync of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep.errors import CommandFailed
from buildstep.events import Bus, Event, Note
from buildstep.events import Output as Told
from buildstep.rootfs.copy_proto import CopyOptions, copy, rules_below, source_of
from buildstep.rootfs.owners import OwnerRule
from buildstep.system.root import Root
from tests.unit.rootfs.conftest import placements

EXCLUDES = [
    ["/lib/drop"],
    ["lib/drop"],
    ["drop"],
    ["*.o"],
    ["/lib/*.o"],
    ["/lib"],
    ["/lib/"],
    ["lib/"],
    ["/lib/sub/"],
    ["/lib/sub/deep"],
    ["sub/deep"],
    ["/lib/**"],
    ["/lib/***"],
    ["/lib/*"],
    ["**/deep"],
    ["/**/deep"],
    ["/*"],
    ["+ /lib/", "/*"],
    ["+ /lib/", "+ /lib/keep", "/lib/*", "/other"],
    ["- /lib/sub"],
    ["+ *.o", "/lib/*"],
    ["/other"],
    ["l?b/drop"],
    ["[kl]ib/sub"],
]


@pytest.mark.commands
@pytest.mark.parametrize("exclude", EXCLUDES, ids=" ".join)
def test_rules_mean_the_same_further_down(
    tmp_path: Path, proto: Callable[..., Path], exclude: list[str]
) -> None:
    """rsync itself is asked: one run from the top against one run of the folder with our rules."""
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed")
    top = proto("lib/keep", "lib/drop", "lib/a.o", "lib/sub/deep", "lib/sub/b.o", "lib/sub/lib/drop", "other/x")  # fmt: skip

    def copied(source: Path, rules: list[str]) -> set[str]:
        argv = ["rsync", "-r", "-n", "--out-format=%n", *(f"--exclude={rule}" for rule in rules)]
        text = subprocess.run([*argv, f"{source}/", f"{tmp_path}/to/"], check=True, capture_output=True, text=True)  # fmt: skip
        return {row.rstrip("/") for row in text.stdout.splitlines()} - {".", ""}

    whole = {os.path.relpath(name, "lib") for name in copied(top, exclude) if name.startswith("lib/")}
    there = "lib" in copied(top, exclude)
    rules = rules_below(exclude, "lib")
    assert (rules is not None) == there
    assert (copied(top / "lib", rules) if rules is not None else set()) == whole


def test_rules_at_the_top_stay_as_they_are() -> None:
    assert rules_below(["/a", "b/c", "+ d"], "") == ["/a", "b/c", "+ d"]


def test_the_source_of_what_went_behind_a_link(base: Root, proto: Callable[..., Path]) -> None:
    top = proto("bin/x", "etc/y")
    found = source_of(placements(top, base), [b"bin/x", b"etc/y"])
    assert found == {b"usr/bin/x": b"bin/x", b"etc/y": b"etc/y"}


@pytest.mark.commands
@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_a_copy_goes_behind_links_and_keeps_the_roots_own_mode(
    base: Root, proto: Callable[..., Path]
) -> None:
    top = proto("bin/x", "lib/drop", "lib/keep", "etc/y", "root/")
    top.chmod(0o700)
    (top / "bin/z").hardlink_to(top / "etc/y")
    (base.path / "root").mkdir(mode=0o700)
    before = base.path.stat()
    events: list[Event] = []
    options = CopyOptions(rule=OwnerRule((("*", None),)), exclude=("/lib/drop",), privileged=False)
    copy(top, base, placements(top, base), options, Bus(events.append))
    assert (base.path / "bin").is_symlink()
    assert sorted(os.listdir(base.path / "usr/bin")) == ["x", "z"]
    assert sorted(os.listdir(base.path / "usr/lib")) == ["keep", "x"]
    assert (base.path / "usr/bin/z").samefile(base.path / "etc/y")
    assert (base.path.stat().st_mode, base.path.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert [event.text for event in events if isinstance(event, Note) and event.level == "warning"] == [
        f"the proto directory changes the mode of /root from 0700 to {(top / 'root').stat().st_mode & 0o7777:04o}"
    ]


ERRORS = {
    'rsync: [generator] failed to set times on "/x/far": Invalid argument (22)': "with `touch`",
    "rsync: [receiver] set_acl: xacl_set(.acl.pOXW9m, ACL_TYPE_ACCESS): Operation not supported (95)": "ACLs",
    'rsync: [receiver] rsync_xal_set: fsetxattr("/x/.far","user.a") failed: Operation not supported (95)': "setfattr",
    'rsync: [receiver] mkstemp "/x/.nnn.a1" failed: File name too long (36)': "shorten it",
    'rsync: [sender] send_files failed to open "/p/shadow": Permission denied (13)': "--exclude",
    "rsync: something new": "name the file",
}


def fake_rsync(folder: Path, monkeypatch: pytest.MonkeyPatch, errors: list[str], status: int) -> None:
    """An rsync that lists what it copied as a real one does, and says these errors before."""
    folder.mkdir()
    lines = "".join(f"{text}\n" for text in errors)
    (folder / "errors").write_text(lines)
    script = folder / "rsync"
    script.write_text(f"#!/bin/sh\ncat {folder}/errors >&2\nseq -f etc/name-%g 100000\nexit {status}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.commands
@pytest.mark.parametrize("error", ERRORS)
def test_rsyncs_errors_are_not_lost_in_its_list(
    base: Root, proto: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    fake_rsync(tmp_path / "fake", monkeypatch, [error, *(f"then {n}" for n in range(1000)), "code 23"], 23)
    options = CopyOptions(rule=OwnerRule((("etc/*", (5, 6)), ("*", (0, 0)))), privileged=True)
    top = proto("etc/x", "bin/y")
    with pytest.raises(CommandFailed) as caught:
        copy(top, base, placements(top, base), options, Bus())
    lines = caught.value.detail.splitlines()
    assert lines[0] == error
    assert "code 23" in lines
    assert not [line for line in lines if line.startswith("etc/name-")]
    assert len(lines) < 50
    assert ERRORS[error] in caught.value.hint


@pytest.mark.commands
def test_what_rsync_only_warns_of_is_in_the_log(
    base: Root, proto: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_rsync(tmp_path / "fake", monkeypatch, ["a warning"], 0)
    events: list[Event] = []
    options, top = CopyOptions(rule=OwnerRule((("*", None),)), privileged=False), proto("x")
    copy(top, base, placements(top, base), options, Bus(events.append))
    assert [event.text for event in events if isinstance(event, Told)] == ["a warning"]
