"""A progress bar on stderr with a rate and the time left."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Reporter:
    """Tells a bar how far the work is; does nothing without a bar."""

    def __init__(self, progress: Progress | None = None, task: TaskID | None = None) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: float = 1) -> None:
        """``amount`` more is done."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, amount)

    def note(self, text: str) -> None:
        """Shows ``text`` beside the bar."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, note=text)


@contextmanager
def bar(title: str, total: int, show: bool, done: int = 0) -> Iterator[Reporter]:
    """A bar of ``total`` units, of which ``done`` are done; an idle Reporter unless ``show``."""
    if not show:
        yield Reporter()
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    # Asked for where there is no terminal, the bar is written once, at the end.
    with Progress(*columns, console=console, transient=console.is_terminal) as progress:
        yield Reporter(progress, progress.add_task(title, total=total, completed=done, note=""))
