"""Explain what a build did, or why two builds differ, from their records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from buildstep.report.record import BuildRecord, ImageFile, Step
from buildstep.system import text as texts


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One thing to tell. text: for a person; kind and facts: the same for a program.

    kind: build, step, proto, option, manifest, base image, tool, package, tree, file or seconds.
    """

    kind: str
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.facts, "text": self.text}


def explain(record: BuildRecord) -> list[Row]:
    """Return rows that say what each step of a build did, why, and how long it took."""
    text = f"{record.title} in {record.seconds:.2f} s (build {record.build_id})"
    facts = {
        "build_id": record.build_id, "name": record.name, "version": record.version, "ok": record.ok,
        "seconds": record.seconds,
    }  # fmt: skip
    return [
        Row(kind="build", text=text, facts=facts),
        *(
            Row(
                kind="step",
                text=f"{step.state:6} {step.name:9} {step.seconds:8.3f} s  {step.reason}",
                facts=_step(step),
            )
            for step in record.steps
        ),
        *_proto_changes(record, "changed"),
    ]


def differences(old: BuildRecord, new: BuildRecord) -> list[Row]:
    """Return rows that say what differs between two builds: inputs first, then results and times."""
    rows = [_option(found, new) for found in texts.differences(_options(old), _options(new))]
    for name, was, now in (
        ("manifest", old.input("manifest"), new.input("manifest")),
        ("base image", _without(old.input("image"), "uuid"), _without(new.input("image"), "uuid")),
        ("tool", old.tools, new.tools),
        ("package", _packages(old), _packages(new)),
    ):
        rows += [
            Row(kind=name, text=f"{name} {found}", facts=found._asdict())
            for found in texts.differences(was, now)
        ]
    rows += _proto_changes(new, "proto")
    if old.tree_digest == new.tree_digest:
        facts = {"digest": new.tree_digest, "same": True}
        rows.append(Row(kind="tree", text="the trees are the same", facts=facts))
    rows += [*_files(old, new), *_steps(old, new)]
    text = f"seconds: {old.seconds:.1f} -> {new.seconds:.1f}"
    return [*rows, Row(kind="seconds", text=text, facts={"old": old.seconds, "new": new.seconds})]


def _files(old: BuildRecord, new: BuildRecord) -> Iterator[Row]:
    files, new_files = _by_format(old), _by_format(new)
    for name in sorted(files.keys() & new_files.keys()):
        before, after = files[name], new_files[name]
        same = before.sha256 == after.sha256
        text = f"{name}: {'the same bytes' if same else f'{before.size} -> {after.size} bytes'}"
        yield Row(
            kind="file",
            text=text,
            facts={"format": name, "same": same, "old": before.size, "new": after.size},
        )


def _steps(old: BuildRecord, new: BuildRecord) -> Iterator[Row]:
    steps = {step.name: step for step in old.steps}
    for step in new.steps:
        earlier = steps.get(step.name, step)
        if earlier.state != step.state:
            text = f"step {step.name}: {_cost(earlier)} -> {_cost(step)}: {step.reason}"
            facts = {"name": step.name, "old": _step(earlier), "new": _step(step)}
            yield Row(kind="step", text=text, facts=facts)


def _step(step: Step) -> dict[str, Any]:
    names = ("name", "state", "reason", "seconds", "key")
    return {name: getattr(step, name) for name in names}


def _options(record: BuildRecord) -> dict[str, Any]:
    options = _without(record.input("spec"), "manifest", "origin_of", "source")
    # `auto` is the same as the name of what it found. Without packages it means nothing.
    used = record.inputs.get("installer", options.get("installer"))
    options = _without(options, "installer") | ({"installer": used} if used else {})
    # Of the owner's rules the first that matches counts, so their order is part of the option.
    options["owner"] = [f"{pattern}={owner}" for pattern, owner in options.get("owner", {}).items()]
    return options


def _option(found: texts.Difference, record: BuildRecord) -> Row:
    """Return the row of an option with its origin, which is told if that is a flag or a variable."""
    origin = record.input("spec").get("origin_of", {}).get(found.name.partition(".")[0], "")
    text = f"option {found}" + (f" ({origin})" if origin in ("flag", "environment") else "")
    return Row(kind="option", text=text, facts={**found._asdict(), "origin": origin})


def _without(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value[key] for key in value if key not in names}


def _packages(record: BuildRecord) -> dict[str, str]:
    return {":".join(filter(None, (row.name, row.arch))): row.version for row in record.packages}


def _proto_changes(record: BuildRecord, word: str) -> list[Row]:
    return [
        Row(kind="proto", text=f"{word} {path}: {why}" if path else why, facts={"path": path, "why": why})
        for path, why in record.input("proto").get("changed", ())
    ]


def _by_format(record: BuildRecord) -> dict[str, ImageFile]:
    """Return the image files by format; of two with the same format the first."""
    return {file.format: file for file in reversed(record.artifacts)}


def _cost(step: Step) -> str:
    return f"{step.state} {step.seconds:.1f} s"
