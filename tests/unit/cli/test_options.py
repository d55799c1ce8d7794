"""What commands share: the pool opened for them, KEY=VALUE, results as JSON or lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from buildstep.cli import guard, options, session
from buildstep.cli.options import JSON, pairs, short_path, show, with_session


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What sessions were opened with, and how the job was run; no pool is touched."""
    calls: list[tuple[Any, ...]] = []

    def open_session(pool: str | None, **how: object) -> str:
        calls.append((pool, how))
        return "session"

    def runner(name: str) -> Callable[[Callable[[], int]], int]:
        def run(job: Callable[[], int]) -> int:
            calls.append((name,))
            return job()

        return run

    monkeypatch.setattr(session, "open_session", open_session)
    for module, name in ((session, "enclosed"), (guard, "guarded")):
        monkeypatch.setattr(module, name, runner(name))
    return calls


def call(command: click.Command, *argv: str) -> object:
    return command.main(list(argv), standalone_mode=False)


def test_a_command_is_called_with_a_session_and_its_own_options(opened: list[tuple[Any, ...]]) -> None:
    @click.command()
    @click.argument("name")
    @with_session(quiet=True)
    @JSON
    def command(found: object, name: str, as_json: bool) -> None:
        opened.append((found, name, as_json))

    assert call(command, "--pool", "dir:/x", "--json", "n") == 0, "no result is exit code 0"
    how = {"verbose": 0, "quiet": True, "healing": True, "sources": ()}
    assert opened == [("enclosed",), ("dir:/x", how), ("session", "n", True)]
    assert [param.name for param in command.params] == ["name", "pool", "as_json"]


def test_a_dry_run_heals_nothing_and_sources_are_for_the_session(opened: list[tuple[Any, ...]]) -> None:
    @click.command()
    @with_session(enclosed=False)
    @click.option("--source", "sources", multiple=True)
    @click.option("-v", "--verbose", count=True)
    @click.option("--dry-run", is_flag=True)
    def command(_found: object, dry_run: bool) -> int:
        return 7 if dry_run else 0

    assert call(command, "--dry-run", "--source", "dir:/a", "-vv") == 7
    how = {"verbose": 2, "quiet": False, "healing": False, "sources": ("dir:/a",)}
    assert opened == [("guarded",), (None, how)]
    assert call(command) == 0
    assert opened[-1][1]["healing"] is True


@click.command()
@click.option("-D", "defines", multiple=True, callback=pairs)
def takes_pairs(defines: dict[str, str]) -> None:
    click.echo(json.dumps(defines))


def test_pairs() -> None:
    runner = CliRunner()
    assert json.loads(runner.invoke(takes_pairs, ["-D", "a=b=c", "-D", "d="]).output) == {"a": "b=c", "d": ""}
    assert json.loads(runner.invoke(takes_pairs).output) == {}
    for bad in ("a", "=b", ""):
        found = runner.invoke(takes_pairs, ["-D", bad])
        assert (found.exit_code, "is not KEY=VALUE" in found.output) == (2, True)


def test_a_result_is_one_json_object_or_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show({"a": [1]}, ["x", "y"], as_json=False)
    assert capsys.readouterr().out == "x\ny\n"
    show({"a": [1]}, ["x", "y"], as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": [1]}


def test_paths_below_here_are_shown_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_path(tmp_path / "a/b") == "a/b"
    assert short_path(os.fspath(tmp_path)) == os.fspath(tmp_path)
    assert short_path(f"{tmp_path}-other/a") == f"{tmp_path}-other/a"
    assert options.short_path("/elsewhere") == "/elsewhere"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full")
@pytest.mark.commands
def test_what_cannot_be_printed_has_the_file_that_is_full() -> None:
    code = "from buildstep.cli.options import show\nshow({}, ['a line'], as_json=False)"
    code = f"try:\n    {code.replace(chr(10), chr(10) + '    ')}\nexcept OSError as error:\n    print(error, file=__import__('sys').stderr)"
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert "[Errno 28] No space left on device: '/dev/full'" in done.stderr
