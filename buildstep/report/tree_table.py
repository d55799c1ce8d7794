"""A tree with columns, such as services in their parents: for a terminal by rich, else as plain lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from buildstep.system.text import printable


class TreeRow(NamedTuple):
    """depth: 0 for one that lies in no other; the rows below it follow it. cells: the columns after the name.
    style: of the first of them on a terminal, as rich names it."""

    depth: int
    name: str
    cells: Sequence[str] = ()
    style: str = ""


def plain_lines(rows: Sequence[TreeRow], head: Sequence[str] = ()) -> Iterator[str]:
    """Yield a line for each row, two blanks before the name for each level. head: names of the columns."""
    table = [tuple(head)] if head else []
    table += [("  " * row.depth + printable(row.name), *map(printable, row.cells)) for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(max(map(len, table), default=0))]
    for line in table:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=False)).rstrip()


def terminal_lines(rows: Sequence[TreeRow], head: Sequence[str], width: int) -> Iterator[str]:
    """Yield the lines of a table with guides and colours for a terminal of some width."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, name in enumerate(head):
        table.add_column(name, overflow="fold", no_wrap=number < len(head) - 1)
    for guide, row in zip(_guides(rows), rows, strict=True):
        shown = Text.assemble((guide, "dim"), (printable(row.name), "bold" if row.depth == 0 else ""))
        cells = [
            Text(printable(cell), style=row.style if number == 0 else "")
            for number, cell in enumerate(row.cells)
        ]
        table.add_row(shown, *cells)
    console = Console(width=width, force_terminal=True, highlight=False, legacy_windows=False)
    with console.capture() as captured:
        console.print(table)
    yield from (line.rstrip() for line in captured.get().splitlines())


def _guides(rows: Sequence[TreeRow]) -> Iterator[str]:
    """Yield what stands before the name of each row: which ones go on below it."""
    for number, row in enumerate(rows):
        text = ""
        for depth in range(1, row.depth + 1):
            goes_on = False
            for later in rows[number + 1 :]:
                if later.depth <= depth:
                    goes_on = later.depth == depth
                    break
            if depth == row.depth:
                text += "├─ " if goes_on else "└─ "
            else:
                text += "│  " if goes_on else "   "
        yield text
