"""What the file of a step holds, and the row of the table that names it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from buildstep.build.context import BuildContext, BuildState
    from buildstep.build.plan import PlanFacts, Planned
    from buildstep.report.record import Step as StepRecord


class Route(StrEnum):
    """How a build gets to its outputs.

    UP_TO_DATE: the outputs of an earlier build are still valid. CONTENT_UPDATE: only the content of some
    files changed, and the image is made from the last build's tree. FULL: everything else.
    """

    UP_TO_DATE = "up to date"
    CONTENT_UPDATE = "content update"
    FULL = "full"


class StepModule(Protocol):
    """What the file of a step holds."""

    def plan(self, facts: PlanFacts) -> Planned:
        """Return what this step (`facts.step`) will do in a full build, and why. Changes nothing."""
        ...

    def run(self, context: BuildContext, state: BuildState, result: StepRecord) -> None:
        """Do it. `result` has the step's name; sets the reason there, and the state where it is not `run`."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """A row of the table. module: its file in this folder; routes: those in which it runs. In the others it
    is recorded as the plan has it."""

    name: str
    title: str
    module: str
    routes: frozenset[Route] = frozenset({Route.FULL})

    def load(self) -> StepModule:
        """Import the step's file."""
        return cast("StepModule", import_module(f"{__package__}.{self.module}"))
