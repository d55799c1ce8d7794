"""What a place is asked besides running actions: one question and one answer, in JSON.

The question is the second word of the command line, or else comes from standard input.
"""

from __future__ import annotations

import json
import sys

from buildstep.services.runtime.records import Locked, Records, state_root

_SECONDS = 30.0


def main(word: str) -> int:
    """Answer `done`: the records of a service; `settled`: the same once no action runs; or `forget` it,
    unless it is another owner's."""
    asked = json.loads(sys.argv[2] if len(sys.argv) > 2 else sys.stdin.buffer.readline())
    records = Records(state_root(asked.get("state")), asked["key"])
    answer = []
    if word == "done":
        answer = records.done()
    else:
        try:
            with records.locked(_SECONDS):
                if word == "forget":
                    records.forget(str(asked.get("owner") or ""))
                else:
                    answer = records.done()
        except Locked:
            sys.stderr.write("an action of this service runs\n")
            return 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0
