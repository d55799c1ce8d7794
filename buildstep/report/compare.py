"""Why two builds differ, or why one did what it did: a view of build records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buildstep.errors import Fault, SpecError
from buildstep.system.files import read_json
from buildstep.system.text import difference


def load(path: Path) -> dict[str, Any]:
    """A build record. Raises SpecError when the file is none."""
    try:
        record = read_json(path)
        if not isinstance(record, dict) or record["format"] != 1 or "steps" not in record:
            raise ValueError("not a build record of format 1")
    except (OSError, ValueError, KeyError) as error:
        raise SpecError("build record", [Fault(where=str(path), message=str(error))]) from error
    return record


def one(record: Mapping[str, Any]) -> list[str]:
    """What each step of a build did and why, and what it cost."""
    rows = [f"{record['name']} {record['version']} in {record['seconds']:.2f} s (build {record['build_id']})"]
    rows += [
        f"{step['state']:6} {step['name']:9} {step['seconds']:8.3f} s  {step['reason']}"
        for step in record["steps"]
    ]
    rows += [f"changed {path}: {why}" for path, why in record["inputs"]["proto"].get("changed", ())]
    return rows


def two(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two builds: inputs first, then what they led to and cost."""
    rows = []
    for name, get in (
        ("option", _options),
        ("manifest", lambda record: record["inputs"]["manifest"]),
        ("base image", lambda record: _without(record["inputs"]["image"], "uuid")),
        ("tool", lambda record: record["tools"]),
        ("package", _packages),
    ):
        rows += [_with_origin(f"{name} {text}", new) for text in difference(get(old), get(new))]
    rows += [f"proto {path}: {why}" for path, why in new["inputs"]["proto"].get("changed", ())]
    if old["tree_digest"] == new["tree_digest"]:
        rows.append("the trees are the same")
    for name in sorted(_formats(old) & _formats(new)):
        was, now = (_artifact(record, name) for record in (old, new))
        same = "the same bytes" if was["sha256"] == now["sha256"] else f"{was['size']} -> {now['size']} bytes"
        rows.append(f"{name}: {same}")
    before = {step["name"]: step for step in old["steps"]}
    for step in new["steps"]:
        was = before.get(step["name"], step)
        if was["state"] != step["state"]:
            cost = f"{was['state']} {was['seconds']:.1f} s -> {step['state']} {step['seconds']:.1f} s"
            rows.append(f"step {step['name']}: {cost}: {step['reason']}")
    rows.append(f"seconds: {old['seconds']:.1f} -> {new['seconds']:.1f}")
    return rows


def _options(record: Mapping[str, Any]) -> dict[str, Any]:
    options = _without(record["inputs"]["spec"], "manifest", "origin_of", "source")
    # Of the owner's rules the first that matches counts: their order is part of what they say.
    options["owner"] = [f"{pattern}={owner}" for pattern, owner in options.get("owner", {}).items()]
    return options


def _with_origin(row: str, record: Mapping[str, Any]) -> str:
    """The row of an option that a flag or a variable gave says so."""
    name = row.removeprefix("option ").partition(":")[0].partition(".")[0]
    origin = record["inputs"]["spec"].get("origin_of", {}).get(name, "")
    told = row.startswith("option ") and origin in ("flag", "environment")
    return f"{row} ({origin})" if told else row


def _without(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value[key] for key in value if key not in names}


def _packages(record: Mapping[str, Any]) -> dict[str, str]:
    return {":".join(filter(None, (row["name"], row["arch"]))): row["version"] for row in record["packages"]}


def _formats(record: Mapping[str, Any]) -> set[str]:
    return {file["format"] for file in record["artifacts"]}


def _artifact(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(file for file in record["artifacts"] if file["format"] == name)
    return found
