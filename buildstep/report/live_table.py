"""A table on a terminal that shows what several jobs do at once, by rich; a program of ours fills it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from buildstep.system.text import printable

STYLES = {
    "waiting": "dim", "running": "bold", "built": "green", "reused": "cyan", "failed": "bold red",
    "blocked": "yellow", "stopped": "yellow", "done": "green", "unchanged": "cyan", "left": "dim",
}  # fmt: skip

_SPARE = 4
"""Lines of the terminal that the table leaves free."""


class Row(NamedTuple):
    """What is shown of a job. state: a word of STYLES; began: by the monotonic clock, while it runs; seconds:
    what it took, once it has ended; text: its last line, or why it is as it is."""

    name: str
    state: str
    text: str = ""
    began: float | None = None
    seconds: float | None = None


class LiveTable:
    """A table on standard error for the length of a block. Call `show` with all rows whenever one changed."""

    def __init__(self, *, every: float = 0.25, console: Any = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = console or Console(stderr=True, highlight=False)
        self._rows: Sequence[Row] = ()
        self._lock = threading.Lock()
        self._live = Live(
            get_renderable=self._table, console=self._console, refresh_per_second=1 / every, transient=True
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, rows: Sequence[Row]) -> None:
        """Take the rows that are shown from now on."""
        with self._lock:
            self._rows = rows

    def print(self, text: str, style: str = "") -> None:
        """Print a line above the table, where it stays."""
        from rich.text import Text

        self._console.print(Text(printable(text), style=style))

    def _table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        with self._lock:
            rows = list(self._rows)
        room = max(3, self._console.height - _SPARE)
        shown = fitting(rows, room)
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        now = time.monotonic()
        for row in shown:
            style = STYLES.get(row.state, "")
            seconds = now - row.began if row.began is not None else row.seconds
            table.add_row(
                Text(printable(row.name), style=style),
                Text(row.state, style=style),
                Text("" if seconds is None else f"{seconds:.1f} s"),
                Text(printable(row.text), style="dim"),
            )
        if len(shown) < len(rows):
            table.add_row(Text(f"and {len(rows) - len(shown)} more", style="dim"), "", "", "")
        return table


_FIRST = (
    "running", "failed", "blocked", "stopped", "waiting", "built", "done", "reused", "unchanged", "left",
)  # fmt: skip
"""Which rows are shown where there is no room for all."""


def fitting(rows: Sequence[Row], room: int) -> list[Row]:
    """Return the rows that fit, in their order: those that matter now before those that are done."""
    if len(rows) <= room:
        return list(rows)
    rank = {state: number for number, state in enumerate(_FIRST)}
    ranked = sorted(range(len(rows)), key=lambda at: (rank.get(rows[at].state, len(rank)), at))
    return [rows[at] for at in sorted(ranked[: room - 1])]
