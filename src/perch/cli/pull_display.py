"""The progress of a pull on stderr: bars on a terminal, a line now and then anywhere else."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from perch.registry.report import Report

_EVERY_S = 10.0
"""Between two lines about the same file."""


@contextmanager
def display(console: Console | None = None) -> Iterator[Report]:
    """Where a pull reports to, while the block runs."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield Lines(console)
        return
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(30),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        redirect_stdout=sys.stdout.isatty(),
    )
    with progress:
        yield Bars(progress)


class Bars:
    """One bar for each file, and one for all that have been begun."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._all = progress.add_task("all", total=0)
        self._tasks: dict[str, TaskID] = {}

    def begin(self, name: str, size: int | None) -> None:
        self._tasks[name] = self._progress.add_task(escape(name), total=size)
        self._sum_up()

    def at(self, name: str, position: int) -> None:
        self._progress.update(self._tasks[name], completed=position)
        self._sum_up()

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _sum_up(self) -> None:
        files = [task for task in self._progress.tasks if task.id != self._all]
        total = None if any(task.total is None for task in files) else sum(task.total or 0 for task in files)
        self._progress.update(self._all, total=total, completed=sum(task.completed for task in files))


class Lines:
    """A line at the begin and the end of each file, and every few seconds in between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._sizes: dict[str, int | None] = {}
        self._told = 0.0
        self._done: set[str] = set()

    def begin(self, name: str, size: int | None) -> None:
        self._sizes[name] = size
        self._told = monotonic()
        self.say(f"{name}: {_megabytes(size)} to fetch" if size is not None else name)

    def at(self, name: str, position: int) -> None:
        size = self._sizes[name]
        if name in self._done:
            return
        if position == size or monotonic() - self._told >= _EVERY_S:
            self._told = monotonic()
            self._done |= {name} if position == size else set()
            self.say(f"{name}: {_megabytes(position)} of {_megabytes(size)}")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _megabytes(number: int | None) -> str:
    return "?" if number is None else f"{number / 1e6:.1f} MB"
