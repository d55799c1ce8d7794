"""What a person and a CI see of a build of components."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from buildstep.components.console import View, describe, summary
from buildstep.components.flow import Outcome
from buildstep.components.interface import Action, Job, Result, State
from buildstep.components.junit import write_junit
from buildstep.components.report import to_json
from buildstep.components.run import Phase
from buildstep.report.job_view import Lines, Silent, Table, job_view
from buildstep.report.live_table import LiveTable, Row, fitting

JOBS = {
    name: Job(name=name, action=Action.PRE if ":" in name else Action.IMAGE, component=name.partition(":")[0])
    for name in ("base", "tool:pre", "tool", "web", "old")
}


def outcome(log: Path | None = None) -> Outcome:
    results = {
        "base": Result(job="base", state=State.BUILT, output="sha256:" + "a" * 64, seconds=1.5),
        "tool:pre": Result(
            job="tool:pre",
            state=State.FAILED,
            message="the hook failed\nhint: look",
            log=log,
            seconds=2.0,
            started=3.0,
        ),
        "tool": Result(job="tool", state=State.BLOCKED, message="tool:pre"),
        "web": Result(job="web", state=State.BLOCKED, message="tool:pre"),
        "old": Result(job="old", state=State.REUSED, output="sha256:" + "b" * 64),
    }
    return Outcome(jobs=JOBS, results=results, started=1_700_000_000.0, seconds=4.0)


def test_lines_carry_the_name_of_their_job() -> None:
    stream = io.StringIO()
    lines = View(Lines(stream))
    lines.phase(JOBS["base"], Phase.WAITING, "")
    lines.phase(JOBS["base"], Phase.RUNNING, "a changed")
    lines.say(JOBS["base"], "STEP 1\x1b[2J")
    for name, result in outcome().results.items():
        lines.ended(JOBS[name], result)
    lines.still(["web", "x"])
    rows = [row[12:] for row in stream.getvalue().splitlines()]
    assert rows.pop() == "still building: web, x"
    assert rows == [
        "base: building: a changed",
        "base| STEP 1?[2J",
        "base: built in 1.5 s: sha256:aaaaaaaaaaaa",
        "tool:pre: FAILED after 2.0 s: the hook failed",
        "tool: not built, as this failed: tool:pre",
        "web: not built, as this failed: tool:pre",
        "old: reused: sha256:bbbbbbbbbbbb",
    ]


def test_the_summary_says_when_there_was_nothing_to_do() -> None:
    assert summary(outcome().results, 4.0) == "5 jobs in 4.0 s: 1 built, 1 reused, 1 failed, 2 blocked"
    reused = {"old": outcome().results["old"]}
    assert summary(reused, 0.1) == "nothing to do: the results of all 1 job are there"
    assert describe(Result(job="x", state=State.STOPPED, message="another job failed")) == (
        "not built: another job failed"
    )


def test_junit_has_a_case_for_each_component(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(60)))
    write_junit(tmp_path / "junit.xml", outcome(log))
    suite = ET.parse(tmp_path / "junit.xml").getroot()[0]
    assert {key: suite.get(key) for key in ("name", "tests", "failures", "skipped")} == {
        "name": "components", "tests": "4", "failures": "1", "skipped": "1",
    }  # fmt: skip
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    failure = cases["tool"].find("failure")
    assert failure is not None
    assert failure.get("message") == "tool:pre: the hook failed"
    text = failure.text or ""
    assert ("line 59" in text, "line 19" in text, "hint: look" in text) == (True, False, True)
    assert cases["web"].find("skipped") is not None
    assert next(iter(cases["old"].iter("system-out"))).text == "old: reused sha256:" + "b" * 64


def test_the_json_of_a_build_has_a_row_for_each_job() -> None:
    found = to_json(outcome())
    assert (found["ok"], found["started"], len(found["jobs"])) == (False, "2023-11-14T22:13:20Z", 5)
    assert found["jobs"][1]["component"] == "tool"
    assert found["jobs"][1]["state"] == "failed"


def test_rows_that_matter_now_are_shown_where_there_is_no_room_for_all() -> None:
    rows = [Row(f"{state}-{n}", state) for n in range(3) for state in ("reused", "running", "failed")]
    assert fitting(rows, 9) == rows
    assert [row.name for row in fitting(rows, 5)] == ["running-0", "failed-0", "running-1", "running-2"]


def test_the_table_shows_each_job_with_its_last_line_and_who_blocked_it() -> None:
    rich = pytest.importorskip("rich.console")
    stream = io.StringIO()
    console = rich.Console(file=stream, width=70, height=20, force_terminal=True, color_system=None)
    table = LiveTable(every=60, console=console)
    view = View(Table(table))
    with view:
        for job in JOBS.values():
            view.phase(job, Phase.WAITING, "")
        view.phase(JOBS["base"], Phase.RUNNING, "never built")
        view.say(JOBS["base"], "STEP 2/3: COPY\n")
        view.ended(JOBS["tool"], outcome().results["tool"])
        view.ended(JOBS["tool:pre"], outcome().results["tool:pre"])
        view.tell("a note")
        with console.capture() as shown:
            console.print(table._table())
    text = shown.get()
    assert "STEP 2/3: COPY" in text
    assert "by tool:pre" in text
    assert "waiting" in text
    assert "tool:pre: FAILED after 2.0 s: the hook failed" in stream.getvalue()
    assert "a note" in stream.getvalue()


def test_a_machine_that_has_a_job_is_shown_in_lines_and_in_the_table() -> None:
    stream = io.StringIO()
    lines = View(Lines(stream))
    lines.placed(JOBS["base"], "agent-1")
    done = Result(job="base", state=State.BUILT, output="sha256:" + "a" * 64, seconds=1.5, worker="agent-1")
    lines.ended(JOBS["base"], done)
    assert [row[12:] for row in stream.getvalue().splitlines()] == [
        "base: on agent-1",
        "base: built in 1.5 s on agent-1: sha256:aaaaaaaaaaaa",
    ]
    rich = pytest.importorskip("rich.console")
    console = rich.Console(file=io.StringIO(), width=70, height=20, force_terminal=True, color_system=None)
    view = View(Table(table := LiveTable(every=60, console=console)))
    with view:
        view.phase(JOBS["base"], Phase.RUNNING, "never built")
        view.placed(JOBS["base"], "agent-1")
        view.say(JOBS["base"], "STEP 2/3: COPY\n")
        view.phase(JOBS["old"], Phase.RUNNING, "never built")
        view.ended(JOBS["old"], replace(done, job="old", worker="agent-2"))
        with console.capture() as shown:
            console.print(table._table())
    assert "agent-1: STEP 2/3: COPY" in shown.get()
    assert "on agent-2" in shown.get()


def test_the_view_suits_the_stream() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(job_view(io.StringIO(), verbose=False, quiet=False), Lines)
    assert isinstance(job_view(Terminal(), verbose=False, quiet=True), Silent)
    assert isinstance(job_view(Terminal(), verbose=True, quiet=False), Lines)
    pytest.importorskip("rich")
    assert isinstance(job_view(Terminal(), verbose=False, quiet=False), Table)
