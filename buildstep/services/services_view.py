"""What the life cycle is told of services, and of the repository that they are in."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from buildstep.errors import Fault, SpecError
from buildstep.services.interface import Action, Facts, Place, Side


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A service, as the life cycle sees it.

    place: where its node side is, for a person. secrets: their values, by name. folder: its directory, for
    its state and logs.
    """

    facts: Facts
    folder: Path
    place: str = "here"
    secrets: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return self.facts.key

    def source(self, side: Side) -> Path | None:
        """Return the file with the service's own actions of a side, None where it has none."""
        path = self.folder / f"actions_{side}.py"
        return path if path.is_file() else None


class ServicesView(Protocol):
    """A repository of services, and the places where their actions run. Safe to use from several threads."""

    def needs(self) -> Mapping[str, Collection[str]]:
        """Return for the key of each service those of the services that must be up before it: producers and
        parents. Raises ServiceError for services that need each other in a circle."""
        ...

    def subject(self, key: str) -> Subject:
        """Return a service as it is described now. Raises SpecError."""
        ...

    def place(self, key: str, side: Side) -> Place:
        """Return where the actions of a side of a service run; the same object each time."""
        ...

    def store(self, key: str, values: Mapping[str, Any]) -> None:
        """Write what an action changed into the configuration of its service."""
        ...

    def remove(self, key: str) -> None:
        """Remove the directory of a service, with its state and logs."""
        ...

    def close(self) -> None:
        """End what the places have opened."""
        ...


_BASES: Final = {
    Side.TEMPLATE: "ActionsBaseTmpl",
    Side.MANAGEMENT: "ActionsBaseMgmt",
    Side.NODE: "ActionsBaseNode",
}

_ALL: Final = frozenset(Action)


def own_actions(source: Path | None, side: Side) -> frozenset[Action]:
    """Return which actions a file has; all where its class inherits them from somewhere, so that only running
    it would tell. Nothing is run. Raises SpecError for a file that is no Python, or has no class Actions."""
    if source is None:
        return frozenset()
    try:
        tree = ast.parse(source.read_bytes(), str(source))
    except SyntaxError as error:
        where = f"{source}:{error.lineno or 1}:{error.offset or 1}"
        raise SpecError(str(source), [Fault(where=where, message=f"is no Python: {error.msg}")]) from error
    found = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Actions"), None)
    if found is None:
        fault = Fault(where=str(source), message="has no class Actions", hint="class Actions: ...")
        raise SpecError(str(source), [fault])
    if any(ast.unparse(base).rpartition(".")[2] not in (_BASES[side], "object") for base in found.bases):
        return _ALL
    names = {node.name for node in found.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)} | {
        target.id
        for node in found.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return frozenset(action for action in Action if action in names)
