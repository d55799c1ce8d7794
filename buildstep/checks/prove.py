"""Do the tests that an m.json asks for; tell how each ended."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from buildstep.checks.image import Image
from buildstep.checks.interface import Kind
from buildstep.errors import SandboxError
from buildstep.events import Bus, Checked


def prove(tests: Iterable[tuple[Kind, Mapping[str, Any]]], image: Image, bus: Bus) -> list[Checked]:
    """Do every test, and return those that failed. Raises what ends a build for another reason."""
    failed = []
    for kind, test in tests:
        event = _done(kind, test, image)
        bus.emit(event)
        if event.result == "failed":
            failed.append(event)
    return failed


def _done(kind: Kind, test: Mapping[str, Any], image: Image) -> Checked:
    begin = time.monotonic()
    try:
        problems = tuple(kind.load()(test, image))
    except SandboxError as error:
        # The image cannot do what the test asks: no such account, nothing that changes to it.
        problems = (error.message, *filter(None, (error.hint,)))
    return Checked(
        check=name_of(kind, test),
        group=kind.group,
        result="failed" if problems else "passed",
        seconds=time.monotonic() - begin,
        message=problems[0] if problems else "",
        lines=problems,
    )


def name_of(kind: Kind, test: Mapping[str, Any]) -> str:
    """Return what a test is called."""
    if "name" in test:
        return str(test["name"])
    if kind.key == "listen":
        return f"port {test['port']}{test.get('path', '')}"
    return "configuration"
