"""What a person sees in the terminal: progress bars, one line per stage, a table at the end of a round."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

console = Console(file=sys.stderr, highlight=False)
"""Everything for people goes to stderr; stdout stays free for what a command prints as its result."""


class Progress:
    """A progress bar for one stage; silent where stderr is no terminal."""

    def __init__(self, label: str, total: int) -> None:
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = RichProgress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task(label, total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, steps: int = 1) -> None:
        """Move on by so many steps."""
        self._bar.advance(self._task, steps)
