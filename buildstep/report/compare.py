"""Explain what a build did, or why two builds differ, from their records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from buildstep.report.record import BuildRecord, ImageFile, Step
from buildstep.system.text import difference


def explain(record: BuildRecord) -> list[str]:
    """Return lines that say what each step of a build did, why, and how long it took."""
    return [
        f"{record.title} in {record.seconds:.2f} s (build {record.build_id})",
        *(f"{step.state:6} {step.name:9} {step.seconds:8.3f} s  {step.reason}" for step in record.steps),
        *(f"changed {text}" for text in _proto_changes(record)),
    ]


def differences(old: BuildRecord, new: BuildRecord) -> list[str]:
    """Return lines that say what differs between two builds: inputs first, then results and times."""
    rows = [_with_origin(f"option {text}", new) for text in difference(_options(old), _options(new))]
    for name, was, now in (
        ("manifest", old.input("manifest"), new.input("manifest")),
        ("base image", _without(old.input("image"), "uuid"), _without(new.input("image"), "uuid")),
        ("tool", old.tools, new.tools),
        ("package", _packages(old), _packages(new)),
    ):
        rows += [f"{name} {text}" for text in difference(was, now)]
    rows += [f"proto {text}" for text in _proto_changes(new)]
    if old.tree_digest == new.tree_digest:
        rows.append("the trees are the same")
    files, new_files = _by_format(old), _by_format(new)
    for name in sorted(files.keys() & new_files.keys()):
        before, after = files[name], new_files[name]
        same = before.sha256 == after.sha256
        rows.append(f"{name}: {'the same bytes' if same else f'{before.size} -> {after.size} bytes'}")
    steps = {step.name: step for step in old.steps}
    for step in new.steps:
        earlier = steps.get(step.name, step)
        if earlier.state != step.state:
            rows.append(f"step {step.name}: {_cost(earlier)} -> {_cost(step)}: {step.reason}")
    return [*rows, f"seconds: {old.seconds:.1f} -> {new.seconds:.1f}"]


def _options(record: BuildRecord) -> dict[str, Any]:
    options = _without(record.input("spec"), "manifest", "origin_of", "source")
    # Of the owner's rules the first that matches counts, so their order is part of the option.
    options["owner"] = [f"{pattern}={owner}" for pattern, owner in options.get("owner", {}).items()]
    return options


def _with_origin(row: str, record: BuildRecord) -> str:
    """Return the row of an option with its origin, if that is a flag or a variable."""
    name = row.removeprefix("option ").partition(":")[0].partition(".")[0]
    origin = record.input("spec").get("origin_of", {}).get(name, "")
    return f"{row} ({origin})" if origin in ("flag", "environment") else row


def _without(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value[key] for key in value if key not in names}


def _packages(record: BuildRecord) -> dict[str, str]:
    return {":".join(filter(None, (row.name, row.arch))): row.version for row in record.packages}


def _proto_changes(record: BuildRecord) -> list[str]:
    return [f"{path}: {why}" for path, why in record.input("proto").get("changed", ())]


def _by_format(record: BuildRecord) -> dict[str, ImageFile]:
    """Return the image files by format; of two with the same format the first."""
    return {file.format: file for file in reversed(record.artifacts)}


def _cost(step: Step) -> str:
    return f"{step.state} {step.seconds:.1f} s"
