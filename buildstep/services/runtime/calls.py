"""Run the calls of a file, one after the other, where nobody is at the other end: while an image is made.

The file has a call a line, as the runner reads it; of a call whose action is `enable` the processes get
units of systemd, where that is there, and nothing is run. What actions print comes out on standard output;
the first that fails ends it, with status 1 and the reason on standard error.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from typing import Any

from buildstep.services.runtime import answers
from buildstep.services.runtime.runner import MARKER
from buildstep.services.runtime.service import Service
from buildstep.services.runtime.supervisors import systemd

ENABLE = "enable"
RUNTIME = os.path.dirname(os.path.abspath(__file__))


def main(path: str) -> int:
    """Run the calls of a file; return the exit status."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        calls = [line for line in file if line.strip()]
    for call in calls:
        told = json.loads(call)
        name = f"{told['facts']['key']}: {told['action']}"
        if told["action"] == ENABLE:
            for unit in systemd.enable_in_image(Service(told)):
                sys.stdout.write(f"{told['facts']['key']}: {unit} starts with the system\n")
            continue
        outcome = _run(call, name)
        if outcome is None:
            sys.stderr.write(f"{name}: the runtime ended before it answered\n")
            return 1
        if outcome["answer"] in (answers.FAILED, answers.NOT):
            sys.stderr.write(f"{name}: {outcome['message'] or 'it failed'}\n")
            return 1
    return 0


def _run(call: str, name: str) -> dict[str, Any] | None:
    env = {**os.environ, MARKER: secrets.token_hex(16)}
    argv = [sys.executable, "-I", RUNTIME, "run"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(call.encode("utf-8", "surrogateescape").rstrip(b"\n") + b"\n")
        child.stdin.flush()  # and it stays open: its end would tell the runner that nobody wants more
        outcome = None
        for row in child.stdout:
            message = json.loads(row)
            for line in message.get("lines", ()):
                sys.stdout.write(f"{name}: {line}\n")
            sys.stdout.flush()
            if "outcome" in message:
                outcome = message["outcome"]
                break
        child.stdin.close()
    return outcome
