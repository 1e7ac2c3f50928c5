"""What is going on, on a terminal: progress and the words as they form. Silent anywhere else."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

_SHOWN = 60  # characters of a partial, its newest


class Display:
    """A live line on stderr while a stream lasts.

    Args:
        name: What is being transcribed.
        samples: How long it is; None if unknown.
        console: Where to draw; stderr by default.
    """

    def __init__(self, name: str, samples: int | None, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        # With both streams on one terminal, rich must hold back what is printed to keep the line intact.
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(20),
            TextColumn("{task.percentage:>3.0f}%" if samples else ""),
            TextColumn("[dim]{task.fields[partial]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._progress.add_task(escape(name), total=samples, partial="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def heard(self, position: int, partial: str = "") -> None:
        """The recogniser has come to sample ``position``; ``partial`` is what it is hearing."""
        self._progress.update(self._task, completed=position, partial=escape(partial[-_SHOWN:]))

    def tell(self, message: str) -> None:
        """A line that stays, terminal or not."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)
