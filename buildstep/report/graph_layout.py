"""Where the boxes and lines of a graph in levels are drawn: levels are columns, from left to right.

The method of Sugiyama, Tagawa and Toda: a line that crosses levels gets a place in each of them; boxes are
put near what they are connected to, first in order (barycenters), then in height (isotonic regression).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

BOX: Final = 46.0
"""Height of a box."""

LINE: Final = 10.0
"""Height of the place that a line gets in a level that it crosses."""

GAP: Final = 14.0
BETWEEN: Final = 84.0
"""Between two boxes of a level, and between two levels."""

MARGIN: Final = 14.0
MOST_PLACES: Final = 20_000
"""Places of lines that cross levels. Where there would be more of them, lines are drawn straight: nobody
follows one of so many, and the drawing has to end."""

SWEEPS: Final = 8

Node = str | tuple[str, str, int]
"""A box by its name, or the place of a line (from, to, level)."""


class Place(NamedTuple):
    """Where a box is: its left upper corner, and its width."""

    x: float
    y: float
    width: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A graph that has its places. lines: the path of each edge, as SVG has it."""

    width: float
    height: float
    boxes: Mapping[str, Place]
    lines: Mapping[tuple[str, str], str]


def lay_out(
    levels: Sequence[Sequence[str]], edges: Iterable[tuple[str, str]], widths: Mapping[str, float]
) -> Layout:
    """Return the layout of a graph. widths: of the boxes. The same graph gives the same layout.

    Of edges that do not lead to a later level only a straight line is drawn.
    """
    level = {name: at for at, names in enumerate(levels) for name in names}
    edges = sorted(edge for edge in edges if edge[0] in level and edge[1] in level)
    columns: list[list[Node]] = [list(names) for names in levels]
    crossed = sum(max(0, level[to] - level[start] - 1) for start, to in edges)
    chains: dict[tuple[str, str], list[Node]] = {}
    for start, to in edges:
        between = range(level[start] + 1, level[to]) if crossed <= MOST_PLACES else range(0)
        places: list[Node] = [(start, to, at) for at in between]
        for at, place in zip(between, places, strict=True):
            columns[at].append(place)
        chains[start, to] = [start, *places, to]
    before, after = _neighbours(chains.values())
    _order(columns, before, after)
    centers = _heights(columns, before, after)
    boxes, lefts, rights = _boxes(columns, centers, widths)
    lines = {edge: _path(chain, boxes, centers, lefts, rights) for edge, chain in chains.items()}
    return Layout(
        width=max(rights, default=0.0) + MARGIN,
        height=max((box.y + BOX for box in boxes.values()), default=0.0) + MARGIN,
        boxes=boxes,
        lines=lines,
    )


def _neighbours(chains: Iterable[Sequence[Node]]) -> tuple[dict[Node, list[Node]], dict[Node, list[Node]]]:
    before: dict[Node, list[Node]] = {}
    after: dict[Node, list[Node]] = {}
    for chain in chains:
        for one, other in itertools.pairwise(chain):
            after.setdefault(one, []).append(other)
            before.setdefault(other, []).append(one)
    return before, after


def _order(
    columns: list[list[Node]], before: Mapping[Node, list[Node]], after: Mapping[Node, list[Node]]
) -> None:
    """Sort the columns by the mean place of what is connected, so that few lines cross."""
    place = {node: index / max(1, len(column)) for column in columns for index, node in enumerate(column)}
    for sweep in range(SWEEPS):
        near = before if sweep % 2 == 0 else after
        for column in columns if sweep % 2 == 0 else reversed(columns):
            wanted = {
                node: sum(place[other] for other in near[node]) / len(near[node])
                if node in near
                else place[node]
                for node in column
            }
            # What is connected with nothing comes last.
            rows = [(node not in before and node not in after, wanted[node], str(node)) for node in column]
            column[:] = [node for _, node in sorted(zip(rows, column, strict=True), key=lambda row: row[0])]
            place.update({node: index / max(1, len(column)) for index, node in enumerate(column)})


def _heights(
    columns: Sequence[Sequence[Node]], before: Mapping[Node, list[Node]], after: Mapping[Node, list[Node]]
) -> dict[Node, float]:
    """Return the middle of each box and place, from the top: near what it is connected to."""
    centers: dict[Node, float] = {}
    near = {node: [*before.get(node, ()), *after.get(node, ())] for column in columns for node in column}
    connected = [[node for node in column if near[node]] for column in columns]
    for part in connected:
        centers.update(zip(part, _apart(part, [0.0] * len(part)), strict=True))
    for sweep in range(SWEEPS):
        for part in connected if sweep % 2 == 0 else reversed(connected):
            wanted = [sum(centers[other] for other in near[node]) / len(near[node]) for node in part]
            centers.update(zip(part, _apart(part, wanted), strict=True))
    for column, part in zip(columns, connected, strict=True):
        # What is connected with nothing comes right below the rest.
        bottom = centers[part[-1]] + _height(part[-1]) / 2 + GAP if part else 0.0
        for node in column[len(part) :]:
            centers[node] = bottom + _height(node) / 2
            bottom += _height(node) + GAP
    top = min((center - _height(node) / 2 for node, center in centers.items()), default=0.0)
    return {node: center - top + MARGIN for node, center in centers.items()}


def _apart(column: Sequence[Node], wanted: Sequence[float]) -> list[float]:
    """Return the heights nearest to the wanted ones that keep the order and the distances of a column.

    Without the distances this is isotonic regression, which pools neighbours that violate the order.
    """
    offsets, at = [], 0.0
    for index, node in enumerate(column):
        if index:
            at += (_height(column[index - 1]) + _height(node)) / 2 + GAP
        offsets.append(at)
    pools: list[tuple[float, int]] = []
    for value, offset in zip(wanted, offsets, strict=True):
        total, count = value - offset, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            more, members = pools.pop()
            total, count = total + more, count + members
        pools.append((total, count))
    means = [total / count for total, count in pools for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _height(node: Node) -> float:
    return BOX if isinstance(node, str) else LINE


def _boxes(
    columns: Sequence[Sequence[Node]], centers: Mapping[Node, float], widths: Mapping[str, float]
) -> tuple[dict[str, Place], list[float], list[float]]:
    """Return the boxes, and where each column begins and ends; the boxes of a column have one width."""
    boxes: dict[str, Place] = {}
    lefts, rights, x = [], [], MARGIN
    for column in columns:
        width = max((widths[node] for node in column if isinstance(node, str)), default=0.0)
        for node in column:
            if isinstance(node, str):
                boxes[node] = Place(x, centers[node] - BOX / 2, width)
        lefts.append(x)
        rights.append(x + width)
        x += width + BETWEEN
    return boxes, lefts, rights


def _path(
    chain: Sequence[Node],
    boxes: Mapping[str, Place],
    centers: Mapping[Node, float],
    lefts: Sequence[float],
    rights: Sequence[float],
) -> str:
    """Return the line of an edge: level through the columns that it crosses, curved between them."""
    start, end = chain[0], chain[-1]
    assert isinstance(start, str)
    assert isinstance(end, str)
    x, y = boxes[start].x + boxes[start].width, centers[start]
    pieces = [f"M{x:.1f} {y:.1f}"]
    for node in chain[1:]:
        left = boxes[node].x if isinstance(node, str) else lefts[node[2]]
        bend, height = (x + left) / 2, centers[node]
        pieces.append(f"C{bend:.1f} {y:.1f} {bend:.1f} {height:.1f} {left:.1f} {height:.1f}")
        x, y = left, height
        if not isinstance(node, str):
            x = rights[node[2]]
            pieces.append(f"H{x:.1f}")
    return "".join(pieces)
