"""The talk with a runtime: what comes before its own words."""

from __future__ import annotations

import json
import os
import threading

from buildstep.services.interface import Answer
from buildstep.services.places.talk import Ends, Talk


def test_what_a_start_file_prints_is_a_line_whatever_it_looks_like() -> None:
    noise = [b"welcome", b"5", b'"a"', b"[]", b"{}", b"null"]
    outcome: dict[str, object] = {"answer": "ok", "message": "", "values": {}, "result": None}
    said = json.dumps({"outcome": {**outcome, "started": 0, "seconds": 0, "tries": 1}}).encode()
    read, far = os.pipe()
    near, write = os.pipe()
    try:
        os.write(far, b"\n".join([*noise, json.dumps({"lines": ["own"]}).encode(), said]) + b"\n")
        lines: list[str] = []
        ends = Ends(write, read, lambda: None)
        found = Talk(ends, 5.0, lines.append, threading.Event()).outcome("call\n")
        assert found is not None
        assert found.answer is Answer.OK
        assert lines == [*(one.decode() for one in noise), "own"]
    finally:
        for fd in (read, far, near, write):
            os.close(fd)
