"""Commands run in this process, in an empty directory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep import cli
from buildstep.system import namespaces

GOOD = {"name": "hello", "version": "1.0.0", "os": "linux", "type": "other", "build": {"image": "scratch"}}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process, in an empty folder, without namespaces; (status, stdout, stderr)."""
    for name in list(os.environ):
        if name.startswith("BUILDSTEP_") or name == "SOURCE_DATE_EPOCH":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", os.fspath(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", os.fspath(tmp_path / "home/data"))
    monkeypatch.setenv("BUILDSTEP_POOL", f"dir:{tmp_path}/pool")
    monkeypatch.setenv("BUILDSTEP_SOURCES", "none")
    monkeypatch.setattr(namespaces, "supported", lambda: False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(*argv: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = cli.main(argv)
        out, err = capfd.readouterr()
        return status, out, err

    return call


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., str]:
    def write(document: object = GOOD) -> str:
        (tmp_path / "work/proto").mkdir(exist_ok=True)
        path = tmp_path / "work/m.json"
        path.write_text(json.dumps(document))
        return os.fspath(path)

    return write
