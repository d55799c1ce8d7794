"""Live logs in a CI's own words: folds closed, errors marked, nothing a tool prints obeyed."""

from __future__ import annotations

import io
import re

import pytest

from buildstep.events import BuildFinished, Event, Note, Output, StepFinished, StepStarted
from buildstep.report.ci_log import CI, CIView, GitLab, detect
from tests.unit import reportdata


@pytest.mark.parametrize(
    ("environ", "ci"),
    [
        ({"GITHUB_ACTIONS": "true", "CI": "true"}, "github"),
        ({"GITLAB_CI": "true"}, "gitlab"),
        ({"JENKINS_URL": "https://ci/"}, "jenkins"),
        ({"CI": "true"}, None),
        ({}, None),
    ],
)
def test_detect(environ: dict[str, str], ci: CI | None) -> None:
    assert detect(environ) == ci


def seen(ci: CI, *events: Event) -> str:
    stream = io.StringIO()
    view = CIView(ci, stream, dialect=GitLab(lambda: 1_700_000_000) if ci == "gitlab" else None)
    for event in events:
        view(event)
    return stream.getvalue()


STEP = (
    StepStarted(step="packages", index=3, total=9, title="install packages"),
    Output(step="packages", tool="apt-get", text="::error::not ours"),
    Output(step="packages", tool="apt-get", text="##[set-env name=A]b \x1b[0Ksection_end:1:x\r"),
    Note(step="packages", level="warning", text="100 % slow: 1, 2\nand more"),
    StepFinished(step="packages", state="failed", seconds=2.0, reason="status 100"),
    BuildFinished(ok=False, exit_code=12, seconds=2.5, message="status 100"),
)


def test_github() -> None:
    lines = seen("github", *STEP).splitlines()
    assert lines[0] == "::group::3/9 install packages"
    token = lines[1].removeprefix("::stop-commands::")
    assert re.fullmatch("[0-9a-f]{32}", token)
    # Follow the runner: which lines does it obey?
    obeyed, stopped = [], ""
    for line in lines:
        if stopped:
            stopped = "" if line == f"::{stopped}::" else stopped
        elif line.startswith("::stop-commands::"):
            stopped = line.removeprefix("::stop-commands::")
        elif line.startswith("::"):
            obeyed.append(line)
        else:
            assert "##[set-env" not in line or line.startswith("    | ")
    assert obeyed == [
        "::group::3/9 install packages",
        "::warning title=packages::100 %25 slow: 1, 2%0Aand more",
        "::endgroup::",
        "::error title=step packages failed::status 100",
    ]
    assert not stopped


def test_github_tokens_differ_between_steps() -> None:
    text = seen("github", *STEP[:1], STEP[4], *STEP[:1], STEP[4])
    assert len(set(re.findall("stop-commands::(.*)", text))) == 2


def test_gitlab() -> None:
    text = seen("gitlab", *STEP)
    opened = "\x1b[0Ksection_start:1700000000:buildstep_packages[collapsed=true]\r\x1b[0K"
    closed = "\x1b[0Ksection_end:1700000000:buildstep_packages\r\x1b[0K\n"
    assert text.count(opened) == text.count(closed) == 1
    assert text.index(opened) < text.index(closed)
    # The tool's own section_end has lost its control characters.
    assert text.count("\x1b[0Ksection_end") == 1
    assert "ERROR: step packages failed: status 100" in text


def test_jenkins() -> None:
    lines = seen("jenkins", *STEP).splitlines()
    assert lines[0] == "[buildstep] >>> packages: 3/9 install packages"
    assert "[buildstep] <<< packages" in lines
    assert "[WARNING] packages: 100 % slow: 1, 2" in lines
    assert "[ERROR] step packages failed: status 100" in lines


@pytest.mark.parametrize("ci", ["github", "gitlab", "jenkins"])
def test_the_failed_steps_tail_stands_outside_its_fold(ci: CI) -> None:
    text = seen(ci, *STEP)
    end = max(text.rfind(word) for word in ("::endgroup::", "section_end:17", "<<< packages"))
    assert "    | ::error::not ours" in text[end:]


@pytest.mark.parametrize("ci", ["github", "gitlab", "jenkins"])
def test_a_whole_build_opens_and_closes_evenly(ci: CI) -> None:
    text = seen(ci, *reportdata.events(200))
    opened, closed = {
        "github": ("::group::", "::endgroup::"),
        "gitlab": ("section_start:", "section_end:"),
        "jenkins": (">>> ", "<<< "),
    }[ci]
    assert text.count(opened) == text.count(closed) == len(reportdata.STEPS)
    assert "hello-1.4.2.oci.tar" in text


def test_a_step_inside_a_step_is_unfolded_again() -> None:
    inner = StepStarted(step="install", index=4, total=9, title="install")
    done = StepFinished(step="install", state="run", seconds=1.0)
    text = seen("github", STEP[0], inner, done, STEP[4], STEP[5])
    assert text.count("::group::") == text.count("::endgroup::") == 3


def test_a_build_that_fails_outside_of_steps_is_marked() -> None:
    text = seen("github", BuildFinished(ok=False, exit_code=10, seconds=0.1, message="no pool"))
    assert "::error title=build failed::no pool" in text
