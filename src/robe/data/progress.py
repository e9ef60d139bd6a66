"""A progress bar on standard error, with a rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        unit, speed = task.fields["unit"], task.speed or 0.0
        return Text(f"{speed / 1e6:,.0f} MB/s" if unit == "B" else f"{speed:,.0f} {unit}/s")


@contextmanager
def bar(what: str, total: float | None, unit: str, show: bool) -> Iterator[Callable[[float], None]]:
    """A bar for ``total`` units of work; yields the function to call with the units done since the last call."""
    if not show:
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total, unit=unit)
        yield lambda n: progress.advance(task, n)
