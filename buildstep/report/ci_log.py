"""A build's live log in the words of the CI it runs in: folded steps, errors that show on the job's page."""

from __future__ import annotations

import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TextIO, assert_never

from buildstep.events import BuildFinished, Event, Level, Note, Output, StepFinished, StepStarted
from buildstep.report.console import describe

CI = Literal["github", "gitlab", "jenkins"]

TAIL = 20
"""Lines of a failed step's output that are shown again outside of its fold."""


def detect(environ: Mapping[str, str]) -> CI | None:
    """The CI that this process runs in, by the variables that CI documents."""
    if environ.get("GITHUB_ACTIONS") == "true":
        return "github"
    if environ.get("GITLAB_CI"):
        return "gitlab"
    if environ.get("JENKINS_URL") or environ.get("JENKINS_HOME"):
        return "jenkins"
    return None


class Dialect(Protocol):
    """How a CI wants folds and annotations. One class each; a method returns the lines to print."""

    def open(self, name: str, title: str) -> list[str]: ...

    def close(self, name: str) -> list[str]: ...

    def mark(self, level: Level, title: str, text: str) -> list[str]:
        """An error or a warning."""
        ...


class GitHub:
    """GitHub Actions (and what speaks its workflow commands: Gitea, Forgejo)."""

    def __init__(self) -> None:
        self._token = ""

    def open(self, name: str, title: str) -> list[str]:
        # A tool may print what looks like a workflow command, by accident or not (`::add-path::`,
        # `##[set-env]`): inside the fold the runner obeys nothing but our token.
        self._token = secrets.token_hex(16)
        return [f"::group::{_data(title)}", f"::stop-commands::{self._token}"]

    def close(self, name: str) -> list[str]:
        token, self._token = self._token, ""
        return [f"::{token}::", "::endgroup::"] if token else ["::endgroup::"]

    def mark(self, level: Level, title: str, text: str) -> list[str]:
        line = f"::{level} title={_property(title)}::{_data(text)}"
        if not self._token:
            return [line]
        return [f"::{self._token}::", line, f"::stop-commands::{self._token}"]


class GitLab:
    """GitLab CI: collapsible sections; colour is the only annotation a job log has."""

    _COLOURS: Mapping[str, str] = {"error": "\x1b[31;1m", "warning": "\x1b[33;1m"}

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    def open(self, name: str, title: str) -> list[str]:
        start = f"section_start:{self._clock():.0f}:{_section(name)}[collapsed=true]"
        return [f"\x1b[0K{start}\r\x1b[0K\x1b[36;1m{title}\x1b[0m"]

    def close(self, name: str) -> list[str]:
        return [f"\x1b[0Ksection_end:{self._clock():.0f}:{_section(name)}\r\x1b[0K"]

    def mark(self, level: Level, title: str, text: str) -> list[str]:
        lines = text.splitlines() or [""]
        return [f"{self._COLOURS.get(level, '')}{level.upper()}: {title}: {lines[0]}\x1b[0m", *lines[1:]]


class Jenkins:
    """Jenkins: plain marks, which its Collapsing Console Sections and Warnings plugins find by pattern."""

    def open(self, name: str, title: str) -> list[str]:
        return [f"[buildstep] >>> {name}: {title}"]

    def close(self, name: str) -> list[str]:
        return [f"[buildstep] <<< {name}"]

    def mark(self, level: Level, title: str, text: str) -> list[str]:
        lines = text.splitlines() or [""]
        return [f"[{level.upper()}] {title}: {lines[0]}", *lines[1:]]


def dialect(ci: CI) -> Dialect:
    match ci:
        case "github":
            return GitHub()
        case "gitlab":
            return GitLab()
        case "jenkins":
            return Jenkins()
        case _:
            assert_never(ci)


class CIView:
    """A subscriber that writes the log of a build for a CI.

    All of a step is in its fold, tools' output too: folded it costs no room, and whoever opens it wants
    it all. What has to be seen stands outside: how each step ended, and a failed step's last lines.
    """

    def __init__(self, ci: CI, stream: TextIO | None = None, *, words: Dialect | None = None) -> None:
        self._stream = stream or sys.stderr
        self._words = words or dialect(ci)
        self._open: list[str] = []
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._failed = ""

    def __call__(self, event: Event) -> None:
        match event:
            case StepStarted():
                self._fold(event)
            case StepFinished():
                self._unfold(event)
            case Output():
                self._tail.append(event.text)
                self._print(f"    {event.tool}| {event.text}")
            case Note(level="warning" | "error"):
                self._mark(event.level, event.step or "build", event.text)
            case BuildFinished():
                self._finish(event)
            case _:
                text = describe(event, verbose=1)
                if text is not None:
                    self._print(text)

    def _fold(self, event: StepStarted) -> None:
        # GitHub and GitLab draw one level of folds well: a step inside a step ends the outer's.
        if self._open:
            self._emit(self._words.close(self._open[-1]))
        self._open.append(event.step)
        self._tail.clear()
        self._emit(self._words.open(event.step, _printable(f"{event.index}/{event.total} {event.title}")))

    def _unfold(self, event: StepFinished) -> None:
        if self._open and self._open[-1] == event.step:
            self._emit(self._words.close(self._open.pop()))
            if self._open:
                self._emit(self._words.open(self._open[-1], f"{_printable(self._open[-1])}, continued"))
        text = describe(event, verbose=1)
        if text is not None:
            self._print(text)
        if event.state == "failed":
            for line in self._tail:
                self._print(f"    | {line}")
            self._failed = event.step
            self._mark("error", f"step {event.step} failed", event.reason or "see the step's log")
        self._tail.clear()

    def _finish(self, event: BuildFinished) -> None:
        while self._open:
            self._emit(self._words.close(self._open.pop()))
        if not event.ok and not self._failed:
            self._mark("error", "build failed", event.message or f"exit status {event.exit_code}")
        self._print(describe(event, verbose=1) or "")

    def _mark(self, level: Level, title: str, text: str) -> None:
        clean = "\n".join(_printable(line) for line in text.splitlines())
        self._emit(self._words.mark(level, _printable(title), clean))

    def _print(self, text: str) -> None:
        self._emit([_printable(text)])

    def _emit(self, lines: list[str]) -> None:
        # One write: lines of two threads do not end up inside each other's commands.
        self._stream.write("\n".join(lines) + "\n")
        self._stream.flush()


def _printable(text: str) -> str:
    """Control characters out, so that a tool cannot end a fold or begin a section."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "?" for c in text.replace("\t", "    "))


def _data(text: str) -> str:
    """A workflow command's text: it ends with the line."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _section(name: str) -> str:
    """A section's name: letters, digits and _.- only."""
    return "buildstep_" + "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in name)
