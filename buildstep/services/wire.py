"""What travels to a place and back, as JSON: a Call there; an Outcome, and what is recorded, back.

The other end is `services/runtime`, which reads the same fields into plain objects of its own, as nothing of
buildstep but itself is there. `FORMAT` is raised when a field changes its meaning; a place refuses another.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buildstep.services.interface import Action, Answer, Call, Done, Facts, Outcome, Process, Side

FORMAT = 1

BYTES = "$bytes"
"""Key of the object that stands for bytes, in base64."""


def plain(value: Any) -> Any:
    """Return a value in what JSON has. Raises TypeError for one that has no form there."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return {BYTES: base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be told to an action")


def facts_json(facts: Facts) -> dict[str, Any]:
    """Return facts as JSON; it is the same for equal facts, so that a digest can be made of its text."""
    return {
        "key": facts.key,
        "name": facts.name,
        "instance": facts.instance,
        "role": facts.role,
        "domain": facts.domain,
        "version": facts.version,
        "values": plain(facts.values),
        "producers": {role: [facts_json(one) for one in some] for role, some in facts.producers.items()},
        "processes": [_process_json(process) for process in facts.processes],
        "packages": list(facts.packages),
        "users": [plain(user) for user in facts.users],
        "files": dict(facts.files),
        "trees": {target: str(source) for target, source in facts.trees.items()},
        "folder": None if facts.folder is None else str(facts.folder),
    }


def _process_json(process: Process) -> dict[str, Any]:
    return {name: plain(value) for name, value in process._asdict().items()}


def call_json(call: Call) -> dict[str, Any]:
    """Return a call as JSON. It has the secrets in it: it goes through a pipe, and into nothing else."""
    return {
        "format": FORMAT,
        "facts": facts_json(call.facts),
        "side": call.side.value,
        "action": call.action.value,
        "digest": call.digest,
        "source": None if call.source is None else str(call.source),
        "secrets": dict(call.secrets),
        "arguments": plain(call.arguments),
        "timeout": call.timeout,
        "tries": call.tries,
        "token": call.token,
    }


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON."""
    return {
        "answer": outcome.answer.value,
        "message": outcome.message,
        "values": plain(outcome.values),
        "result": plain(outcome.result),
        "started": outcome.started,
        "seconds": outcome.seconds,
        "tries": outcome.tries,
    }


def outcome_of(data: Mapping[str, Any]) -> Outcome:
    """Read an outcome. Raises ValueError, KeyError or TypeError for what is none."""
    return Outcome(
        answer=Answer(data["answer"]),
        message=str(data["message"]),
        values=dict(data["values"]),
        result=data["result"],
        started=float(data["started"]),
        seconds=float(data["seconds"]),
        tries=int(data["tries"]),
    )


def done_json(done: Done) -> dict[str, Any]:
    """Return a record as JSON."""
    return {
        "format": FORMAT,
        "action": done.action.value,
        "side": done.side.value,
        "digest": done.digest,
        "outcome": outcome_json(done.outcome),
        "token": done.token,
    }


def done_of(data: Mapping[str, Any]) -> Done:
    """Read a record. Raises ValueError, KeyError or TypeError for what is none, or of another format."""
    if data["format"] != FORMAT:
        raise ValueError(f"its format is {data['format']!r}, not {FORMAT}")
    return Done(
        action=Action(data["action"]),
        side=Side(data["side"]),
        digest=str(data["digest"]),
        outcome=outcome_of(data["outcome"]),
        token=str(data["token"]),
    )


def text(data: Mapping[str, Any]) -> str:
    """Return JSON as one line, the same for equal data."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
