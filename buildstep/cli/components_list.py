"""`buildstep components list`: the components of a repository."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from buildstep.cli.components_options import Work, with_work
from buildstep.cli.options import JSON, show
from buildstep.system.text import plural

if TYPE_CHECKING:
    from buildstep.components.graph import Graph
    from buildstep.components.interface import Component


@click.command("list")
@with_work
@JSON
def command(work: Work, as_json: bool) -> None:
    """List the components of a repository: their images, their hooks, and the components that they need."""
    graph = work.graph
    components = [_row(graph, component) for component in graph.repository.components.values()]
    notes = [*graph.repository.notes, *graph.notes]
    value = {"root": str(work.root), "components": components, "notes": notes}
    show(value, _lines(components, notes), as_json=as_json)


def _row(graph: Graph, component: Component) -> dict[str, Any]:
    return {
        "name": component.name,
        "images": [
            {
                "name": image.name,
                "kind": image.kind,
                "file": image.file,
                "mode": image.mode,
                "base_images": list(graph.external[image.name]),
            }
            for image in component.images
        ],
        "hooks": [hook for hook in (component.pre, component.post) if hook],
        "needs": graph.providers.get(component.name, []),
        "files": len(component.files),
    }


def _lines(components: list[dict[str, Any]], notes: list[str]) -> Iterator[str]:
    width = max((len(row["name"]) for row in components), default=0)
    for row in components:
        images = [image["name"] for image in row["images"]]
        parts = []
        if images != [row["name"]]:
            parts.append(f"images {', '.join(images)}" if images else "no image")
        if row["hooks"]:
            parts.append(f"hooks {', '.join(hook.rpartition('/')[2] for hook in row['hooks'])}")
        if row["needs"]:
            parts.append(f"needs {', '.join(row['needs'])}")
        yield f"{row['name']:<{width}}  {'; '.join(parts)}".rstrip()
    for note in notes:
        yield f"note: {note}"
    count = sum(len(row["images"]) for row in components)
    yield f"{plural(len(components), 'component')} with {plural(count, 'image')}"
