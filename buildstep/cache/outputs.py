"""What was written where: outputs of an earlier build that the same build would only write again.

    state/artifacts/KEY.json        the files of one build, each with its lstat, and what the build told
    state/artifacts/last-NAME.json  what decided the last build of these outputs, to tell why one differs

The key is made of everything that decides the bytes of the outputs; a file that was touched since, or is
gone, makes the whole entry void.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from buildstep.system.files import read_json, stamp, write_json
from buildstep.system.text import difference

FORMAT = 3


def key_of(inputs: Mapping[str, Any]) -> str:
    """The key of outputs that these inputs decide."""
    text = json.dumps([FORMAT, inputs], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _last(state: Path, stem: Path) -> Path:
    name = hashlib.sha256(os.fsencode(stem)).hexdigest()[:32]
    return state / "artifacts" / f"last-{name}.json"


def why_not(state: Path, stem: Path, inputs: Mapping[str, Any]) -> list[str]:
    """What differs from the last build of these outputs, one sentence each."""
    try:
        last = read_json(_last(state, stem))
        found = difference(last["inputs"], inputs)
    except (OSError, ValueError, KeyError, TypeError):
        return ["the first build of these outputs"]
    return found or ["the outputs of the last build were touched, or are gone"]


def save(
    state: Path, stem: Path, inputs: Mapping[str, Any], files: Iterable[Path], told: Mapping[str, Any]
) -> None:
    """Note the outputs of a build, once they have their names."""
    key = key_of(inputs)
    folder = state / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    stamps = {os.fspath(path): stamp(path) for path in files}
    write_json(folder / f"{key}.json", {"format": FORMAT, "files": stamps, "told": dict(told)}, durable=False)
    write_json(_last(state, stem), {"format": FORMAT, "inputs": dict(inputs)}, durable=False)


def find(state: Path, key: str) -> Mapping[str, Any] | None:
    """What the build of this key told, if every one of its outputs is still there untouched."""
    try:
        found = read_json(state / "artifacts" / f"{key}.json")
        if found["format"] != FORMAT:
            return None
        for name, there in found["files"].items():
            if stamp(Path(name)) != there:
                return None
        told: Mapping[str, Any] = {**found["told"], "key": key}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return told


def touch(state: Path, key: str) -> None:
    """Note that an entry was of use: what is not for long is pruned."""
    with contextlib.suppress(OSError):
        os.utime(state / "artifacts" / f"{key}.json")


def restamp(state: Path, path: Path, before: list[int]) -> None:
    """Take an output that we wrote to ourselves, such as a record, for untouched. before: its old stamp."""
    name = os.fspath(path.absolute())
    for entry in (state / "artifacts").glob("*.json"):
        try:
            found = read_json(entry)
            if found["format"] != FORMAT or found["files"].get(name) != before:
                continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        found["files"][name] = stamp(path)
        write_json(entry, found, durable=False)
