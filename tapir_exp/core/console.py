"""Terminal output: progress bars, one line per stage, tables and warnings."""

import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

console = Console(file=sys.stderr, highlight=False)
"""Messages go to stderr; stdout is for the results that a command prints."""


class Progress:
    """Progress bar of one stage; silent if stderr is not a terminal."""

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
        """Advance the bar by a number of steps."""
        self._bar.advance(self._task, steps)


def print_stage(name: str, figures: Mapping[str, Any], seconds: float, reused: bool) -> None:
    """Print one line for a finished stage: its figures, and its time in seconds or "reused"."""
    plain = {key: value for key, value in figures.items() if value is not None and not isinstance(value, Mapping)}
    text = "  ".join(f"{key} {_short(value)}" for key, value in plain.items())
    time = "reused" if reused else f"{seconds:.1f} s"
    console.print(f"[bold]{name:<19}[/] {text}  [dim]{time}[/]", soft_wrap=True)


def print_warning(text: str) -> None:
    """Print a warning that the user must not overlook."""
    console.print(f"[bold yellow]{text}[/]", soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of figures; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
