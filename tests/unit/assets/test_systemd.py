"""Units of systemd, judged by systemd's own reader where it is there."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from buildstep.assets import systemd
from buildstep.assets.systemd import PULL, TIMER, WATCH, UnitOptions, quoted, units
from buildstep.errors import UsageError

OPTIONS = UnitOptions(
    program=Path("/bin/true"),
    arguments=["--store", "s3://assets/team 1", "--keep", "3", "--host", 'a"b%h$HOME'],
    install=Path("/srv/services"),
)


def values(text: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


@pytest.mark.commands("systemd-analyze")
@pytest.mark.parametrize("hooks", [False, True])
def test_systemd_finds_nothing_wrong_with_them(tmp_path: Path, hooks: bool) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    metrics = Path("/var/lib/node exporter/buildstep.prom")
    made = units(dataclasses.replace(OPTIONS, hooks=hooks, user="root", metrics=metrics))
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


def test_each_unit_is_of_its_kind() -> None:
    assert values(units(OPTIONS)[PULL], "Type") == ["oneshot"]
    assert values(units(OPTIONS)[WATCH], "Type") == ["exec"]
    assert values(units(OPTIONS)[TIMER], "OnUnitInactiveSec") == ["5min"]


def test_the_command_is_the_one_of_the_options() -> None:
    (command,) = values(units(OPTIONS)[PULL], "ExecStart")
    told = '/bin/true assets pull --store "s3://assets/team 1" --keep 3 --host "a\\"b%%h$$HOME"'
    assert command == told
    assert values(units(OPTIONS)[WATCH], "ExecStart") == [f"{told} --watch"]


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("plain-1.2_3", "plain-1.2_3"),
        ("", '""'),
        ("two words", '"two words"'),
        ("100%", "100%%"),
        ("$HOME", "$$HOME"),
        ("back\\slash", '"back\\\\slash"'),
        ("a;b", '"a;b"'),
        ("line\nnext", '"line\\nnext"'),
        ("*", '"*"'),
    ],
)
def test_words_reach_the_command_as_they_are(word: str, shown: str) -> None:
    assert quoted(word) == shown


def test_a_path_that_may_be_written_to_is_as_it_is() -> None:
    (paths,) = values(units(dataclasses.replace(OPTIONS, install=Path("/srv/$a")))[PULL], "ReadWritePaths")
    assert paths == "-/srv/$a"


def test_it_may_write_where_it_installs_and_nowhere_else() -> None:
    text = units(OPTIONS)[PULL]
    assert values(text, "ProtectSystem") == ["strict"]
    assert values(text, "ReadWritePaths") == ["-/srv/services"]
    assert values(text, "PrivateTmp") == ["yes"]


def test_metrics_are_written_after_each_pull_of_the_timer() -> None:
    made = units(
        dataclasses.replace(
            OPTIONS, metrics=Path("/var/lib/metrics/b.prom"), status=["--install-dir=/srv/services"]
        )
    )
    (command,) = values(made[PULL], "ExecStopPost")
    told = "assets status --quiet --install-dir=/srv/services --metrics /var/lib/metrics/b.prom"
    assert command == f"-/bin/true {told}"
    assert values(made[PULL], "ReadWritePaths") == ["-/srv/services -/var/lib/metrics"]
    assert values(made[WATCH], "ExecStopPost") == []


def test_hooks_may_do_what_the_administrator_lets_them() -> None:
    text = units(dataclasses.replace(OPTIONS, hooks=True))[PULL]
    assert values(text, "ProtectSystem") == []
    assert values(text, "NoNewPrivileges") == ["yes"]


def test_a_directory_below_tmp_is_the_one_that_all_see() -> None:
    text = units(dataclasses.replace(OPTIONS, install=Path("/tmp")))[PULL]
    assert values(text, "PrivateTmp") == []


@pytest.mark.parametrize("every", ["", "often", "0", "-5min", "5min; rm", "0s"])
def test_a_span_that_systemd_would_not_take(every: str) -> None:
    with pytest.raises(UsageError, match="no span of time"):
        units(dataclasses.replace(OPTIONS, every=every))


@pytest.mark.parametrize("every", ["90", "5min", "1h 30min", "2 days"])
def test_spans(every: str) -> None:
    assert values(units(dataclasses.replace(OPTIONS, every=every))[TIMER], "OnUnitInactiveSec") == [every]


def test_paths_are_absolute() -> None:
    with pytest.raises(UsageError, match="absolute"):
        units(dataclasses.replace(OPTIONS, install=Path("services")))
    with pytest.raises(UsageError, match="NUL"):
        systemd.quoted("a\0b")


@pytest.mark.parametrize("user", ["two words", "a\nExecStart=/bin/sh", "-x"])
def test_a_user_is_a_name(user: str) -> None:
    with pytest.raises(UsageError, match="no name of a user"):
        units(dataclasses.replace(OPTIONS, user=user))
