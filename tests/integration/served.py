"""Start a service in a network of its own, ask it over HTTP, and end it: a driver for tests, run as a child.

Its standard input is a JSON object. start: a command line, which runs as long as the service or starts it and
ends; stop: what ends it then; ask: rows of method, URL and body. On standard output: the answers, a row of
status and body each, how the command ended, and what it printed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIMIT = 60.0
"""Seconds until a service answers."""


def served(
    start: Sequence[str | Path], ask: Sequence[tuple[str, str, str]], *, stop: Sequence[str | Path] = ()
) -> dict[str, Any]:
    """Return what a service answered: `answers`, `status`, `output`. See the module."""
    given = {"start": [os.fspath(x) for x in start], "stop": [os.fspath(x) for x in stop], "ask": ask}
    inside = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, "-m", __name__]
    done = subprocess.run(
        ["unshare", "--net", "--", *inside], input=json.dumps(given), cwd=Path(__file__).parents[2],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _ask(method: str, url: str, body: str) -> tuple[int, str]:
    request = urllib.request.Request(url, data=body.encode() or None, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _first(method: str, url: str, body: str, child: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Ask until somebody listens, and a proxy has something behind it."""
    end = time.monotonic() + LIMIT
    while True:
        try:
            answer = _ask(method, url, body)
            if answer[0] != 502 or time.monotonic() > end:
                return answer
        except OSError:
            if time.monotonic() > end or child.poll() not in (None, 0):
                raise
        time.sleep(0.05)


def _main() -> None:
    given = json.load(sys.stdin)
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            given["start"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            first, *others = given["ask"]
            answers = [_first(first[0], first[1], first[2], child), *(_ask(*row) for row in others)]
        except OSError as error:
            answers = [(0, str(error))]
        finally:
            if given["stop"]:
                subprocess.run(given["stop"], stdout=output, stderr=output, check=False, timeout=60)
            else:
                child.terminate()
            try:
                status = child.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                status = child.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    sys.stdout.write(json.dumps({"answers": answers, "status": status, "output": text}))


if __name__ == "__main__":
    _main()
