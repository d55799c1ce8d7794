"""Commands: what a child gets, what is kept of what it says, and that nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from buildstep.errors import CommandFailed, ToolMissing
from buildstep.events import WHOLE, Part
from buildstep.system import child, command_output, process
from buildstep.system.deferral import interrupt

pytestmark = pytest.mark.commands  # starting them is the subject


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits for its parent to ask does not."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def ended(pid: int, within: float = 3.0) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        if not alive(pid):
            return True
        time.sleep(0.01)
    return False


def test_output_is_kept_apart_and_told_line_by_line() -> None:
    lines: list[str] = []
    done = process.run(
        ["sh", "-c", "echo one; echo two; echo err >&2"],
        line=lambda text, _=WHOLE: lines.append(text),
        limits=process.Limits(answer=100),
    )
    assert (done.status, done.stdout, done.stderr) == (0, "one\ntwo", "err")
    assert sorted(lines) == ["err", "one", "two"]


def test_a_failure_has_the_last_lines_and_the_command_to_paste() -> None:
    with pytest.raises(CommandFailed) as caught:
        process.run(["sh", "-c", "seq 1 100; echo why >&2; exit 3"], what="trying")
    error = caught.value
    assert error.status == 3
    assert error.message == "trying: sh exited with status 3"
    lines = error.detail.splitlines()
    assert len(lines) == command_output.TAIL_LINES + 1
    assert {"100", "why"} <= set(lines)
    assert "1" not in lines
    assert lines[-1] == "command: sh -c 'seq 1 100; echo why >&2; exit 3'"


def test_a_status_that_is_no_failure() -> None:
    assert process.run(["sh", "-c", "exit 7"], ok=(0, 7)).status == 7
    assert process.query(["sh", "-c", "exit 7"], ok=(7,)).status == 7


def test_a_signal_is_told_by_its_number() -> None:
    with pytest.raises(CommandFailed, match="killed by signal 9"):
        process.run(["sh", "-c", "kill -9 $$"])


def test_a_missing_program_is_named_with_a_hint() -> None:
    with pytest.raises(ToolMissing, match="no-such-tool") as caught:
        process.run(["no-such-tool"])
    assert caught.value.hint
    assert caught.value.code == 5


def test_nothing_waits_for_an_input_that_never_comes() -> None:
    assert process.run(["cat"], limits=process.Limits(5, answer=100)).stdout == ""
    assert process.query(["cat"], timeout=5).stdout == ""


def test_arguments_and_output_need_not_be_text() -> None:
    odd = os.fsdecode(b"\xff\nh\xc3\xa9")
    assert process.run(["printf", "%s", odd], limits=process.Limits(answer=100)).stdout == "\ufffd\nhé"
    lines: list[str] = []
    process.run(["printf", "%s", odd], line=lambda text, _=WHOLE: lines.append(text))
    assert lines == ["\ufffd", "hé"]
    # The bytes themselves reach the child unchanged.
    done = process.run(
        ["sh", "-c", 'printf %s "$1" | od -An -tx1', "sh", odd], limits=process.Limits(answer=100)
    )
    assert done.stdout.split() == ["ff", "0a", "68", "c3", "a9"]


def test_a_command_is_never_a_shell_line(tmp_path: Path) -> None:
    process.run(["echo", f"$(touch {tmp_path}/x); touch {tmp_path}/y"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (process.Limits(total=0.3), "did not end within 0.3 s"),
        (process.Limits(idle=0.3), "printed nothing for 0.3 s"),
    ],
)
def test_a_command_that_takes_too_long_is_ended_with_its_children(
    tmp_path: Path, limits: process.Limits, text: str
) -> None:
    begin = time.monotonic()
    with pytest.raises(CommandFailed, match=text):
        process.run(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait"], limits=limits)
    assert time.monotonic() - begin < 5
    assert ended(int((tmp_path / "pid").read_text()))


def test_output_keeps_an_idle_command_alive() -> None:
    done = process.run(
        ["sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.2; done"],
        limits=process.Limits(idle=0.6, answer=100),
    )
    assert done.stdout == "1\n2\n3\n4\n5"


def test_one_that_ignores_terminate_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(child, "GRACE", 0.2)
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done"
    with pytest.raises(CommandFailed):
        process.run(["sh", "-c", script], limits=process.Limits(0.3))
    assert ended(int((tmp_path / "pid").read_text()))


def test_what_a_command_leaves_running_is_ended_and_not_waited_for(tmp_path: Path) -> None:
    begin = time.monotonic()
    done = process.run(
        ["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; echo done"], limits=process.Limits(answer=100)
    )
    assert done.stdout == "done"
    assert time.monotonic() - begin < 5, "a child in the background held our end of the pipe"
    assert ended(int((tmp_path / "pid").read_text()))


Start = Callable[[list[str]], object]


@pytest.mark.parametrize("start", [process.run], ids=["run"])
def test_an_exception_ends_the_child_first(start: Start, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(_signum: int, _frame: object) -> None:
        raise Stop

    # The child sends the signal itself, some time after it has said who it is: by then it is watched.
    before = signal.signal(signal.SIGALRM, stop)
    script = f"sleep 60 & echo $! $$ > {tmp_path}/pid; sleep 0.3; kill -ALRM {os.getpid()}; wait"
    try:
        with pytest.raises(Stop):
            start(["sh", "-c", script])
    finally:
        signal.signal(signal.SIGALRM, before)
    for pid in (tmp_path / "pid").read_text().split():
        assert ended(int(pid))


def _spawned(argv: Sequence[str]) -> None:
    with process.spawn(argv, stdin=-1):
        time.sleep(60)


@pytest.mark.parametrize("start", [process.run, process.query, _spawned], ids=["run", "query", "spawn"])
def test_a_signal_while_a_child_is_started_leaves_none(start: Start, tmp_path: Path) -> None:
    """The child sends it at once; our call may not even have returned from starting it."""

    class Stop(Exception):
        pass

    def stop(_signum: int, _frame: object) -> None:
        interrupt(Stop())

    before = signal.signal(signal.SIGALRM, stop)
    try:
        for number in range(5):
            file = tmp_path / str(number)
            with pytest.raises(Stop):
                start(["sh", "-c", f"echo $$ > {file}; kill -ALRM {os.getpid()}; sleep 60"])
            assert ended(int(file.read_text()))
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_pipe_stage_is_checked_and_ended(tmp_path: Path) -> None:
    with process.spawn(["cat"], stdin=-1, stdout=-1) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"\xff")
        child.stdin.close()
        assert child.stdout.read() == b"\xff"
    with (
        pytest.raises(CommandFailed, match="reading: sh exited with status 2") as caught,
        process.spawn(["sh", "-c", "echo bad >&2; exit 2"], what="reading"),
    ):
        pass
    assert "bad" in caught.value.detail
    pid = 0
    with contextlib.suppress(ZeroDivisionError), process.spawn(["sleep", "60"]) as child:
        pid = child.pid
        raise ZeroDivisionError
    assert not alive(pid)


def test_the_agents_tokens_do_not_reach_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "JENKINS_API_TOKEN", "SSH_AUTH_SOCK", "LD_PRELOAD"):
        monkeypatch.setenv(name, "" if name == "LD_PRELOAD" else "the-token")
    for text in (
        process.run(["env"], limits=process.Limits(answer=10_000)).stdout,
        process.query(["env"]).stdout,
    ):
        assert "the-token" not in text
        assert "LD_PRELOAD" not in text
        names = {row.partition("=")[0] for row in text.splitlines()}
        assert "PATH" in names
        assert names <= {*process._INHERITED, "PWD", "SHLVL", "_", "LC_ALL"}
    with process.spawn(["env"], stdout=-1) as child:
        assert child.stdout is not None
        assert b"the-token" not in child.stdout.read()


def test_a_given_environment_is_the_whole_of_it() -> None:
    text = process.run(["/usr/bin/env"], env={"ONE": "1"}, limits=process.Limits(answer=1000)).stdout
    assert [row for row in text.splitlines() if not row.startswith(("PWD=", "SHLVL=", "_="))] == ["ONE=1"]


def test_processes_are_counted() -> None:
    before = process.started
    process.run(["true"])
    process.query(["true"])
    with process.spawn(["true"]):
        pass
    assert process.started == before + 3


def test_a_child_has_no_terminal_and_a_session_of_its_own() -> None:
    code = "import os; print(os.isatty(0), os.isatty(1), os.getsid(0) == os.getpid())"
    assert (
        process.run([sys.executable, "-c", code], limits=process.Limits(answer=100)).stdout
        == "False False True"
    )


def test_many_at_once_keep_their_output_apart() -> None:
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = process.query(["sh", "-c", f"seq {number} {number + 50}"]).stdout.split()[0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: str(number) for number in range(8)}


def test_nothing_is_left_open() -> None:
    process.run(["true"])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        process.run(["sh", "-c", "echo x"])
        with contextlib.suppress(CommandFailed):
            process.run(["false"])
        process.query(["true"])
    assert len(os.listdir("/proc/self/fd")) <= before


_FLOOD = """
import functools, re, sys
from buildstep.events import Bus
from buildstep.report.event_log import EventLog
from buildstep.system import process
with open(sys.argv[1], "wb") as stream:
    log = EventLog(stream)
    bus = Bus(log)
    process.run(["sh", "-c", sys.argv[2]], line=functools.partial(bus.output, "t"))
    log.flush()
# Not getrusage: its peak is also that of the process that started this one.
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.parametrize(
    "script",
    [
        "yes | head -c 90000000",
        "head -c 90000000 /dev/zero",
        "head -c 45000000 /dev/urandom | tee /dev/stderr",
    ],
    ids=["lines", "one-line", "binary-on-both"],
)
def test_ninety_megabytes_of_output_take_little_memory_and_disk(script: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = process.query([sys.executable, "-c", _FLOOD, os.fspath(log), script], timeout=120)
    kilobytes = int(done.stdout)
    assert kilobytes < 120_000
    assert log.stat().st_size < 100_000_000


def test_output_is_limited() -> None:
    begin = time.monotonic()
    with pytest.raises(CommandFailed, match=r"sh printed more than 2\.0 MiB: sh was killed") as caught:
        process.run(["sh", "-c", "echo first; yes"], limits=process.Limits(output=2 << 20))
    assert time.monotonic() - begin < 5
    assert caught.value.detail.startswith("y\ny\n")


def test_an_answer_is_whole_or_none() -> None:
    assert (
        process.run(["sh", "-c", "seq 1 9 | tr -d '\\n'"], limits=process.Limits(answer=9)).stdout
        == "123456789"
    )
    with pytest.raises(CommandFailed, match="sh answered with more than 8 B"):
        process.run(["sh", "-c", "seq 1 9 | tr -d '\\n'; sleep 60"], limits=process.Limits(answer=8))


def test_a_query_has_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "ANSWER", 1000)
    with pytest.raises(CommandFailed, match="yes answered with more than 1000 B"):
        process.query(["yes"], timeout=20)


def test_a_query_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(CommandFailed, match=r"sh did not end within 0\.3 s"):
        process.query(["sh", "-c", script], timeout=0.3)
    assert ended(int((tmp_path / "pid").read_text()))


def test_a_stage_takes_its_children_with_it(tmp_path: Path) -> None:
    with process.spawn(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid"]):
        pass
    assert ended(int((tmp_path / "pid").read_text()))


def test_a_stage_that_does_not_end_is_ended(tmp_path: Path) -> None:
    begin = time.monotonic()
    with (
        pytest.raises(CommandFailed, match=r"sending did not end within 0\.2 s"),
        process.spawn(["sleep", "60"], what="sending", timeout=0.2),
    ):
        pass
    assert time.monotonic() - begin < 5


def test_a_stage_may_flood_its_errors() -> None:
    with (
        pytest.raises(CommandFailed) as caught,
        process.spawn(["sh", "-c", "head -c 3000000 /dev/zero >&2; echo >&2; echo why >&2; exit 1"]),
    ):
        pass
    assert caught.value.detail.splitlines()[-2] == "why"
    assert len(caught.value.detail) < 3000


def test_a_process_that_left_the_group_holds_nobody_up(tmp_path: Path) -> None:
    begin = time.monotonic()
    script = f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec yes' & sleep 0.2; exit 3"
    try:
        with pytest.raises(CommandFailed, match="status 3"):
            process.run(["sh", "-c", script])
    finally:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert time.monotonic() - begin < 5


def test_an_error_of_who_is_told_a_line_ends_the_command(tmp_path: Path) -> None:
    def refuse(_text: str, _part: Part = WHOLE) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        process.run(["sh", "-c", f"echo $$ > {tmp_path}/pid; echo x; exec sleep 60"], line=refuse)
    assert ended(int((tmp_path / "pid").read_text()))
