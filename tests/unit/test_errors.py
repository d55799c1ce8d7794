"""Exit codes are an interface: unique, documented, and the same as the classes say."""

from __future__ import annotations

import inspect
import re
import signal
from pathlib import Path

import pytest

from buildstep import errors
from buildstep.errors import BuildstepError, CommandFailed, ExitCode, Fault, Interrupted, SpecError

REFERENCE = Path(__file__).parents[2] / "docs/reference/exit-codes.md"

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, BuildstepError) and cls is not BuildstepError
]


def documented() -> dict[int, tuple[str, str]]:
    """Code to (name, classes) as the reference's table has them."""
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| ([^|]*)\|", REFERENCE.read_text(), re.MULTILINE)
    return {int(code): (name, classes) for code, name, classes in rows}


def test_codes_are_unique_and_leave_room_for_signals() -> None:
    values = [int(code) for code in ExitCode]
    assert len(values) == len(set(values)) == len(ExitCode.__members__), "an alias would hide a double"
    assert all(0 <= value < 64 for value in values), "64 and more are sysexits.h, shells and signals"


def test_codes_never_change() -> None:
    """Scripts branch on them."""
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0, "BUG": 1, "USAGE": 2, "NOTHING_TO_DO": 3, "COMMAND_FAILED": 4, "TOOL_MISSING": 5, "DISK": 6,
        "DATASET": 10, "IMAGE": 11, "INSTALL": 12, "SANDBOX": 13, "EMIT": 14, "GRAPH": 15, "STORE": 16,
        "PUBLISH": 17, "CI": 18, "SIGNING": 19, "GATE": 20,
        "REGISTER": 21, "INCOMPLETE": 22, "SERVICE": 23, "LOCK": 24, "CHECK": 25,
        "SHARED_CACHE": 26,
        "UNSIGNED": 30, "WRONG_KEY": 31, "WRONG_SUBJECT": 32, "EXPIRED": 33, "DENIED": 34,
        "VULNERABLE": 35, "NO_DATABASE": 36, "DIFFERENT": 37, "INPUT_MISSING": 38,
    }  # fmt: skip


def test_every_code_is_documented_and_nothing_else() -> None:
    table = documented()
    assert {code: name for code, (name, _) in table.items()} == {int(code): code.name for code in ExitCode}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_has_a_code_of_its_own_area(cls: type[BuildstepError]) -> None:
    assert cls.exit_code not in (ExitCode.OK, ExitCode.BUG), "a known failure is not our bug"
    assert f"`{cls.__name__}`" in documented()[int(cls.exit_code)][1]


def test_nothing_that_makes_do_without_takes_a_signal_for_a_failure() -> None:
    assert not issubclass(Interrupted, Exception)


def test_a_signal_ends_with_128_and_its_number() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        assert Interrupted(signum, signum.name).code == 128 + signum
    assert "128" in REFERENCE.read_text()


def test_all_faults_are_told_together() -> None:
    faults = [Fault(where="$.name", message="is required"), Fault(where="$.x", message="what", hint="y?")]
    error = SpecError("m.json", faults)
    assert error.message == "m.json: 2 faults"
    assert error.detail.splitlines() == ["  $.name: is required", "  $.x: what (y?)"]
    assert SpecError("m.json", faults[:1]).message == "m.json: 1 fault"


def test_a_failed_command_says_how_it_ended() -> None:
    assert CommandFailed(["x"], 3).message == "x exited with status 3"
    assert CommandFailed(["x"], -15, what="syncing").message == "syncing: x was killed by signal 15"
