"""The commands of a build as rows of its plan: their names, and which of them precede the proto directory."""

from __future__ import annotations

from dataclasses import dataclass

from buildstep.spec.fields import BuildSpec, RunCommand

STEP = "run"
"""The row of the table of steps that stands for all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A command, and the step that runs it.

    early: whether it runs before the proto directory is in the image, with nothing of that but its inputs;
    what it leaves is a layer of the image then. kept: whether the tree with its result is kept.
    """

    step: str
    command: RunCommand
    early: bool

    @property
    def kept(self) -> bool:
        return bool(self.command.name)

    @property
    def name(self) -> str:
        return self.step.partition(":")[2]


def rows(spec: BuildSpec) -> tuple[Row, ...]:
    """Return a build's commands in the order in which they run."""
    found = [
        Row(
            step=f"{STEP}:{command.name or number}",
            command=command,
            early=bool(command.inputs) and spec.order == "packages-first",
        )
        for number, command in enumerate(spec.run, 1)
    ]
    return tuple(sorted(found, key=lambda row: not row.early))


def early(spec: BuildSpec) -> tuple[Row, ...]:
    """Return those that precede the proto directory."""
    return tuple(row for row in rows(spec) if row.early) if spec.run else ()


def late(spec: BuildSpec) -> tuple[Row, ...]:
    """Return those that follow it."""
    return tuple(row for row in rows(spec) if not row.early) if spec.run else ()


def proto_comes_later(spec: BuildSpec) -> bool:
    """Return whether something else is put into the image before the proto directory."""
    return spec.order == "packages-first" and (spec.wants_packages or bool(early(spec)))


def find(spec: BuildSpec, step: str) -> Row:
    """Return the row of a step."""
    return next(row for row in rows(spec) if row.step == step)
