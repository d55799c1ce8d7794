"""The stamp of a build, and what git knows of a checkout."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from buildstep.spec import template
from buildstep.system import process


def test_a_stamp_is_in_utc() -> None:
    moment = datetime.fromisoformat("2024-01-01T01:00:00+02:00")
    clean = {"branch": "master", "short": "abc", "dirty": False}
    assert template.stamp(clean, moment) == "master-20231231T230000Z-gabc"


def test_the_facts_of_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "rev-parse HEAD": "c" * 40,
        "rev-parse --short HEAD": "ccccccc",
        "symbolic-ref --quiet --short HEAD": "",
        "status --porcelain --untracked-files=no": " M file",
        "describe --tags --exact-match": "v1",
    }

    def query(argv: list[str], *, ok: range) -> SimpleNamespace:
        assert argv[:3] == ["git", "-C", "/src"]
        assert 128 in ok, "a directory that is no checkout is no error"
        return SimpleNamespace(stdout=answers[" ".join(argv[3:])] + "\n")

    monkeypatch.setattr(process, "query", query)
    for name in ("BRANCH_NAME", "GIT_BRANCH"):
        monkeypatch.delenv(name, raising=False)
    facts = template.git_facts(Path("/src"))
    assert facts == {"commit": "c" * 40, "short": "ccccccc", "branch": "detached", "dirty": True, "tag": "v1"}
    monkeypatch.setenv("GIT_BRANCH", "origin/main")
    assert template.git_facts(Path("/src"))["branch"] == "main"
    monkeypatch.setenv("BRANCH_NAME", "feature/x")
    assert template.git_facts(Path("/src"))["branch"] == "feature/x"
    # A variable wins over a branch that is checked out, and that is told.
    told: list[str] = []
    for attached, branch in (("", "feature/x"), ("main", "feature/x"), ("feature/x", "feature/x")):
        answers["symbolic-ref --quiet --short HEAD"] = attached
        assert template.git_facts(Path("/src"), tell=told.append)["branch"] == branch
    monkeypatch.delenv("BRANCH_NAME")
    answers["symbolic-ref --quiet --short HEAD"] = "topic"
    assert template.git_facts(Path("/src"), tell=told.append)["branch"] == "main"
    assert told == [
        "the branch of git and stamp is feature/x, as BRANCH_NAME says; main is checked out",
        "the branch of git and stamp is main, as GIT_BRANCH says; topic is checked out",
    ]
