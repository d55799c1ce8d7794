"""`buildstep service` as a child, in a repository of a test's own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from buildstep import cli

TOP = Path(__file__).parents[2]


class ServiceCli:
    """Runs commands in a repository. templates: files by their paths below servicetemplates/. records: where
    this machine keeps what was done."""

    def __init__(self, top: Path, templates: Mapping[str, str], **environ: str) -> None:
        self.top = top
        for name, text in templates.items():
            path = top / "servicetemplates" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.records = top / ".records"
        own = {"PYTHONPATH": str(TOP), "CI": "1", "BUILDSTEP_SERVICES_RECORDS": str(self.records)}
        self.environ = {**os.environ, **own, **environ}

    def argv(self, words: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "buildstep", "service", *words, "--root", str(self.top)]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, in this process: to start another one takes longer than most commands.
        `begin` starts one. A build enters namespaces, out of which no process comes back: it has its own."""
        if words[0] in {"build", "bake"}:
            return subprocess.run(
                self.argv(words), env=self.environ, capture_output=True, text=True, check=False
            )
        argv = self.argv(words)[3:]
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        with (
            mock.patch.dict(os.environ, self.environ, clear=True),
            mock.patch("sys.stdin", io.StringIO()),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            status = cli.main(argv)
        told = (stream.buffer.getvalue().decode() for stream in (out, err))
        return subprocess.CompletedProcess(argv, status, *told)

    def done(self, *words: str) -> str:
        """Run a command that must end well; return what it prints on standard output."""
        ended = self.run(*words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def json(self, *words: str, status: int = 0) -> Any:
        """Run a command that must end with a status; return the object that it prints."""
        ended = self.run(*words, "--json")
        assert ended.returncode == status, ended.stderr
        return json.loads(ended.stdout)

    def ran(self, *words: str, status: int = 0) -> dict[str, list[str]]:
        """Run a verb; return the actions that ran, by service; their sides are left out."""
        found: dict[str, list[str]] = {}
        for row in self.json(*words, status=status)["services"]:
            found.setdefault(row["service"], []).extend(name.partition(".")[2] for name in row["ran"])
        return {key: names for key, names in found.items() if names}

    def states(self) -> dict[str, str]:
        return {row["service"]: row["state"] for row in self.json("status")["services"]}

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            self.argv(words), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environ
        )
