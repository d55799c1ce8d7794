"""A build's live log in the syntax of its CI: steps are folded, errors show on the job's page."""

from __future__ import annotations

import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TextIO

from buildstep.events import BuildFinished, Event, Level, Note, Output, Progress, StepFinished, StepStarted
from buildstep.report.console import describe
from buildstep.report.progress import EVERY, Pace
from buildstep.system.text import printable, shown_line

CI = Literal["github", "gitlab", "jenkins"]

TAIL = 20
"""Lines of a failed step's output that are shown again outside of its fold."""


def detect(environ: Mapping[str, str]) -> CI | None:
    """Return the CI that this process runs in, by the variables that each CI documents."""
    if environ.get("GITHUB_ACTIONS") == "true":
        return "github"
    if environ.get("GITLAB_CI"):
        return "gitlab"
    if environ.get("JENKINS_URL") or environ.get("JENKINS_HOME"):
        return "jenkins"
    return None


class Dialect(Protocol):
    """The syntax of a CI for folds and annotations, one class each; a method returns the lines to print."""

    def open(self, name: str, title: str) -> list[str]: ...

    def close(self, name: str) -> list[str]: ...

    def mark(self, level: Level, title: str, text: str) -> list[str]:
        """Annotate the job with an error or a warning."""
        ...


class GitHub:
    """GitHub Actions, and what knows its workflow commands: Gitea, Forgejo."""

    def __init__(self) -> None:
        self._token = ""

    def open(self, name: str, title: str) -> list[str]:
        # A tool may print what looks like a workflow command, by accident or not (`::add-path::`,
        # `##[set-env]`): inside the fold the runner obeys only our token.
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
        first, *more = text.splitlines() or [""]
        return [f"{self._COLOURS.get(level, '')}{level.upper()}: {title}: {first}\x1b[0m", *more]


class Jenkins:
    """Jenkins: plain marks, which its Collapsing Console Sections and Warnings plugins find by pattern."""

    def open(self, name: str, title: str) -> list[str]:
        return [f"[buildstep] >>> {name}: {title}"]

    def close(self, name: str) -> list[str]:
        return [f"[buildstep] <<< {name}"]

    def mark(self, level: Level, title: str, text: str) -> list[str]:
        first, *more = text.splitlines() or [""]
        return [f"[{level.upper()}] {title}: {first}", *more]


DIALECTS: Mapping[CI, Callable[[], Dialect]] = {"github": GitHub, "gitlab": GitLab, "jenkins": Jenkins}


class CIView:
    """Write the log of a build for a CI; a subscriber of the bus.

    Everything about a step is inside its fold, tools' output too: folded it takes no room, and whoever
    opens it wants it all. Outside is what has to be seen: how each step ended, and a failed step's last
    lines.
    """

    def __init__(
        self,
        ci: CI,
        stream: TextIO | None = None,
        *,
        dialect: Dialect | None = None,
        pace: float = EVERY,
    ) -> None:
        self._stream = stream or sys.stderr
        self._dialect = dialect or DIALECTS[ci]()
        self._open: list[str] = []
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._failed = ""
        self._pace = Pace(lambda text: self._print(f"    {text}"), every=pace)

    def __call__(self, event: Event) -> None:
        match event:
            case StepStarted():
                self._fold(event)
            case StepFinished():
                self._unfold(event)
            case Output():
                if (text := shown_line(event.text, event.part, event.size)) is not None:
                    self._tail.append(text)
                    self._print(f"    {event.tool}| {text}")
            case Progress():
                (self._pace.begin if event.state == "begin" else self._pace.end)(event.gauge)
            case Note(level="warning" | "error"):
                self._mark(event.level, event.step or "build", event.text)
            case BuildFinished():
                self._pace.close()
                self._finish(event)
            case _:
                self._describe(event)

    def _fold(self, event: StepStarted) -> None:
        # GitHub and GitLab draw one level of folds well: a step inside a step ends the outer's.
        if self._open:
            self._emit(self._dialect.close(self._open[-1]))
        self._open.append(event.step)
        self._tail.clear()
        self._emit(self._dialect.open(event.step, printable(f"{event.index}/{event.total} {event.title}")))

    def _unfold(self, event: StepFinished) -> None:
        if self._open and self._open[-1] == event.step:
            self._emit(self._dialect.close(self._open.pop()))
            if self._open:
                self._emit(self._dialect.open(self._open[-1], f"{printable(self._open[-1])}, continued"))
        self._describe(event)
        if event.state == "failed":
            for line in self._tail:
                self._print(f"    | {line}")
            self._failed = event.step
            self._mark("error", f"step {event.step} failed", event.reason or "see the step's log")
        self._tail.clear()

    def _finish(self, event: BuildFinished) -> None:
        while self._open:
            self._emit(self._dialect.close(self._open.pop()))
        if not event.ok and not self._failed:
            self._mark("error", "build failed", event.message or f"exit status {event.exit_code}")
        self._describe(event)

    def _mark(self, level: Level, title: str, text: str) -> None:
        clean = "\n".join(printable(line) for line in text.splitlines())
        self._emit(self._dialect.mark(level, printable(title), clean))

    def _describe(self, event: Event) -> None:
        text = describe(event, verbose=1)
        if text is not None:
            self._print(text)

    def _print(self, text: str) -> None:
        self._emit([printable(text)])

    def _emit(self, lines: list[str]) -> None:
        # A single write, so that lines of two threads do not end up inside each other's commands.
        self._stream.write("\n".join(lines) + "\n")
        self._stream.flush()


def _data(text: str) -> str:
    """Return the text of a workflow command, which ends with the line."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _section(name: str) -> str:
    """Return the name of a section: letters, digits and _.- only."""
    return "buildstep_" + "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in name)
