"""The completion scripts in the shells themselves; each asks the real command."""

from __future__ import annotations

import os
import pty
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.conftest import demand

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment with a `buildstep`, in a directory that has an archive."""
    program = tmp_path / "bin/buildstep"
    program.parent.mkdir()
    command = shlex.join([sys.executable, "-P", "-m", "buildstep"])
    program.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {command} "$@"\n')
    program.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    (work / "base.tar").touch()
    path = f"{program.parent}:{os.environ['PATH']}"
    return {
        "PATH": path,
        "HOME": os.fspath(tmp_path),
        "PWD": os.fspath(work),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
    }


def typed(shell: list[str], env: dict[str, str], setup: str, line: str, wanted: str) -> str:
    """What an interactive shell shows after a line and a TAB; it has a terminal."""
    child, fd = pty.fork()
    if child == 0:
        os.chdir(env["PWD"])
        os.execvpe(shell[0], shell, env)
    shown = b""

    def until(text: str, seconds: float) -> None:
        nonlocal shown
        end = time.monotonic() + seconds
        while text.encode() not in shown and time.monotonic() < end:
            if select.select([fd], [], [], 0.1)[0]:
                shown += os.read(fd, 65536)

    try:
        # The mark is not in what is echoed.
        os.write(fd, f"{setup}; echo rea''dy\n".encode())
        until("ready", 30)
        shown = b""
        os.write(fd, f"{line}\t".encode())
        until(wanted, 30)
    finally:
        os.kill(child, 9)
        os.close(fd)
        os.waitpid(child, 0)
    return shown.decode(errors="replace")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("buildstep build --compression zs", "--compression zstd"),
        ("buildstep build --compression=zs", "--compression=zstd"),
        ("buildstep build -i tar:ba", "tar:base.tar"),
    ],
)
def test_bash(env: dict[str, str], line: str, wanted: str) -> None:
    demand("bash")
    setup = 'eval "$(buildstep completion bash)"'
    assert wanted in typed(["bash", "--norc", "--noprofile", "-i"], env, setup, line, wanted)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("buildstep build --compression zs", "--compression zstd"),
        ("buildstep build -i tar:ba", "tar:base.tar"),
    ],
)
def test_zsh(env: dict[str, str], line: str, wanted: str) -> None:
    demand("zsh")
    setup = 'autoload -U compinit; compinit -D; eval "$(buildstep completion zsh)"'
    assert wanted in typed(["zsh", "-f", "-i"], env, setup, line, wanted)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("buildstep build --compression zs", "zstd"),
        ("buildstep build -i tar:ba", "tar:base.tar"),
        ("buildstep doc", "doctor"),
    ],
)
def test_fish(env: dict[str, str], line: str, wanted: str) -> None:
    demand("fish")
    script = f"buildstep completion fish | source; complete -C {shlex.quote(line)}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], env=env, cwd=env["PWD"], capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert wanted in done.stdout, done.stderr
