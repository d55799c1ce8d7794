"""Units that look after services, judged by systemd's own reader where it is there."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from buildstep import cli
from buildstep.cli.service_monitor import command as monitor
from buildstep.cli.service_run import cleanup
from buildstep.errors import UsageError
from buildstep.services.units import UnitOptions, units
from tests.unit.services.repositories import create, template

OPTIONS = UnitOptions(
    program=Path("/bin/true"), root=Path("/srv/my site/50%"), keys=("web!a b", "@db"), user="root"
)
WATCH, CLEANUP, TIMER = (
    "buildstep-services.service", "buildstep-services-cleanup.service", "buildstep-services-cleanup.timer",
)  # fmt: skip


@pytest.mark.commands("systemd-analyze")
def test_systemd_finds_nothing_wrong_with_them(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    made = units(OPTIONS)
    for name, text in made.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in made)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")


def command(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    return shlex.split(line.partition("=")[2])


def test_their_commands_are_there_with_these_options(tmp_path: Path) -> None:
    made = units(dataclasses.replace(OPTIONS, root=tmp_path))
    assert [*made] == [WATCH, CLEANUP, TIMER]
    for text, job in ((made[WATCH], monitor), (made[CLEANUP], cleanup)):
        _, group, verb, *options = command(text)
        assert (group, verb) == ("service", job.name)
        assert job.make_context(verb, options).params["patterns"] == ("web!a b", "@db")


def test_what_runs_goes_on_when_the_one_who_watches_ends() -> None:
    assert "KillMode=process" in units(OPTIONS)[WATCH].splitlines()


def test_two_repositories_have_their_own() -> None:
    assert not {*units(OPTIONS)} & {*units(dataclasses.replace(OPTIONS, name="other"))}


@pytest.mark.parametrize(
    "wrong",
    [{"name": "../up"}, {"name": ""}, {"cleanup": "soon"}, {"user": "a b"}, {"root": Path("site")},
     {"program": Path("buildstep")}],
)  # fmt: skip
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        units(dataclasses.replace(OPTIONS, **wrong))  # type: ignore[arg-type]


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    template(tmp_path, "web")
    create(tmp_path, "web")
    argv = ["service", "systemd", "web", "--root", str(tmp_path), "--dir", str(tmp_path)]
    assert cli.main([*argv, "--every", "30s"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / name) for name in (WATCH, CLEANUP, TIMER)]
    words = command((tmp_path / WATCH).read_text())
    assert words[1:] == [
        "service", "monitor", "--watch", "--restart", "--every", "30s", "--root", str(tmp_path), "--", "web",
    ]  # fmt: skip
    assert cli.main([*argv, "--every", "soon"]) == 2
    assert cli.main(["service", "systemd", "gone", "--root", str(tmp_path)]) == 2
