"""Calls of actions for tests: a file with a class, and the runtime as a child, by the place that is here."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from buildstep.services.interface import Action, Call, Facts, Outcome, Process, Side, Where
from buildstep.services.places.here import Node

HEAD = """
import os, signal, subprocess, sys, time
from buildstep.services.runtime import ActionsBaseNode, Failure

class Actions(ActionsBaseNode):
"""


class Bench:
    """A node in a directory. folder: of its service; lines: what actions have printed."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.folder = top / "service"
        self.folder.mkdir()
        self.state = top / "state"
        self.place = Node(Where(state=self.state))
        self.lines: list[str] = []
        self.stopped = threading.Event()

    def source(self, body: str, side: Side = Side.NODE, head: str = HEAD) -> Path:
        """Write a file of actions whose class has this body."""
        path = self.folder / f"actions_{side}.py"
        path.write_text(head + textwrap.indent(textwrap.dedent(body), "    ") + "\n")
        return path

    def call(
        self, action: Action, body: str | None = None, *, facts: Mapping[str, Any] | None = None, **more: Any
    ) -> Call:
        source = None if body is None else self.source(body)
        given = {"key": "x!main", "name": "x", "instance": "main", "role": "x", "folder": self.folder}
        fields = {"side": Side.NODE, "digest": "d", "timeout": 20.0, **more}
        return Call(facts=Facts(**{**given, **(facts or {})}), action=action, source=source, **fields)

    def run(self, action: Action, body: str | None = None, **more: Any) -> Outcome:
        return self.place.run(self.call(action, body, **more), self.lines.append, self.stopped)

    def service(self, action: Action, processes: Sequence[Process], **more: Any) -> Outcome:
        """Run our own action for some processes."""
        return self.run(action, facts={"processes": processes}, **more)
