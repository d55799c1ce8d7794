"""Bars of jobs on a terminal, by rich; imported only where they are shown."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from buildstep.events import Gauge
from buildstep.system.text import printable, size_text

_WIDE, _MIDDLE, _NARROW = 100, 70, 45
"""Columns of a terminal from which on there is room for a bar; for rate and what a job is at; for bytes."""

_SOON = 0.3
"""Seconds after which a job is shown: what is over before that would only flicker."""
_PERIOD = 10.0
"""Seconds over which a rate is taken: so long a download that stalls has the one it had."""


class Bars(Progress):
    """rich's progress of gauges, which are read whenever it is drawn. headline: is shown above them."""

    headline: RenderableType | None = None

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True, highlight=False)
        self._gauges: dict[Gauge, TaskID] = {}
        width, right = console.width, Column(no_wrap=True, justify="right")
        rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        # What a job is at takes what the others leave; a long title may have a third.
        title = Column(no_wrap=True, overflow="ellipsis", max_width=width // 3) if width >= _MIDDLE else rest
        columns: list[ProgressColumn] = [
            TextColumn("  {task.description}", markup=False, table_column=title),
            TaskProgressColumn(table_column=right.copy()),
            TimeRemainingColumn(compact=True, table_column=right.copy()),
        ]
        # What there is no room for, the least useful first.
        if width >= _NARROW:
            columns.insert(2, _Amount(binary_units=True, table_column=right.copy()))
        if width >= _MIDDLE:
            columns.insert(3, _Rate(table_column=right.copy()))
            columns.append(TextColumn("{task.fields[at]}", style="dim", markup=False, table_column=rest))
        if width >= _WIDE:
            columns.insert(1, BarColumn(bar_width=20))
        super().__init__(
            *columns, console=console, transient=True, expand=True, speed_estimate_period=_PERIOD
        )

    def begin(self, gauge: Gauge) -> None:
        """Show a job."""
        title = printable(gauge.title)
        with self._lock:
            self._gauges[gauge] = self.add_task(title, total=gauge.total or None, unit=gauge.unit, at="")

    def end(self, gauge: Gauge) -> None:
        """Show a job no more."""
        with self._lock:
            if (task := self._gauges.pop(gauge, None)) is not None:
                self.remove_task(task)

    @property
    def empty(self) -> bool:
        """Whether no job is shown."""
        return not self._gauges

    def get_renderables(self) -> Iterator[RenderableType]:
        shown = set()
        with self._lock:  # a job that has just ended is gone
            for gauge, task in self._gauges.items():
                if gauge.seconds >= _SOON:
                    shown.add(task)
                now = gauge.reading()
                files = f"{now.files:,} of {gauge.files:,} files" if gauge.files else ""
                at = printable(now.text) or files
                self.update(task, total=gauge.total or None, completed=now.done, at=at)
        if self.headline is not None:
            yield self.headline
        if tasks := [task for task in self.tasks if task.id in shown]:
            yield self.make_tasks_table(tasks)


class _Amount(DownloadColumn):
    """Bytes of all bytes; nothing for what is counted in per cent."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.fields["unit"] == "bytes" else Text()


class _Rate(ProgressColumn):
    """Bytes a second, of the last seconds; likewise."""

    def render(self, task: Task) -> Text:
        if task.fields["unit"] != "bytes" or not task.speed:
            return Text()
        return Text(f"{size_text(int(task.speed))}/s", style="progress.data.speed")
