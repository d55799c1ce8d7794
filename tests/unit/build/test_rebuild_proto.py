"""The proto directory of a rebuild: what a record may ask of git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from buildstep.build import rebuild_proto
from buildstep.build.rebuild_proto import Places
from tests.unit.build.workshop import make_workshop


def git(top: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    argv = ["git", "-C", str(top), *who, *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.commands
def test_a_record_gives_git_no_options_and_runs_no_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, scratch, precious = tmp_path / "top", tmp_path / "scratch", tmp_path / "precious"
    spec = make_workshop(tmp_path / "shop", monkeypatch).spec()
    scratch.mkdir()
    (top / "proto").mkdir(parents=True)
    (top / "proto/file").write_text("one\n")
    precious.write_text("kept")
    git(tmp_path, "init", "-q", str(top))
    git(top, "add", ".")
    git(top, "commit", "-q", "-m", "one")
    git(top, "config", "filter.mine.smudge", f"touch {tmp_path}/ran; cat")
    git(top, "config", "filter.mine.required", "true")
    (top / ".git/info/attributes").write_text("* filter=mine\n")
    commit = git(top, "rev-parse", "HEAD")

    def found(commit: object) -> list[Path | None]:
        facts = {"git": {"commit": commit, "top": str(top), "path": "proto"}}
        rows = rebuild_proto._candidates(spec, facts, Places(scratch, None))
        return [path for where, path in rows if where.startswith("commit")]

    for option in (f"--output={precious}", "--remote=.", "HEAD", 5, None):
        assert found(option) == []
    assert precious.read_text() == "kept"
    paths = [path for path in found(commit) if path is not None]
    assert [(path / "file").read_text() for path in paths] == ["one\n"] * 3
    assert not (tmp_path / "ran").exists()
