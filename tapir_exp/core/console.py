"""Terminal output: progress bars, one line per stage, tables and warnings.

`Terminal` is the only way to a terminal. Text may come from models, files and paths, so brackets are never markup here,
and control characters are shown as escapes.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, Self

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.segment import Segment
from rich.table import Table
from rich.text import Text, TextType

from tapir_exp.core.progress_lines import ProgressLines
from tapir_exp.core.text import escape_controls


class Terminal(Console):
    """Console that shows any text as it is: without markup, emoji codes and control characters.

    Attributes:
        label: Name of the job of this process if others write to the same terminal; empty otherwise.
    """

    def __init__(self, file: IO[str] | None = None) -> None:
        super().__init__(file=file, highlight=False, markup=False, emoji=False)
        self.label = ""

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """Print the lines of a job that runs elsewhere during the block."""
        before, self.label = self.label, label
        try:
            yield
        finally:
            self.label = before

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does; if jobs run side by side, each line begins with the label of its job."""
        if self.label and objects:
            # One text is one write, so that lines of other jobs do not come between.
            objects = (self._label_lines(objects),)
        super().print(*objects, **options)

    def rule(self, title: TextType = "", **options: Any) -> None:
        """Draw a line with a title; if jobs run side by side, the title begins with the label of its job."""
        title = f"[{self.label}] {title}" if self.label else title
        with self.labelled(""):
            super().rule(title, **options)

    def _label_lines(self, objects: Sequence[Any]) -> Text:
        label = Text(f"[{self.label}] ", "dim")
        parts = [item if isinstance(item, Text) else Text(self._plain(item, label.cell_len)) for item in objects]
        return Text("\n").join(label + line for line in Text(" ").join(parts).split("\n"))

    def _plain(self, item: Any, indent: int) -> str:
        """Return what rich shows of an object in the columns that a label leaves, without its colours."""
        if isinstance(item, str):
            return item
        lines = self.render_lines(item, self.options.update(width=self.width - indent), pad=False)
        return "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, with controls of the text escaped; those of rich itself are no text yet."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else escape_controls(segment.text)
            yield segment if text is segment.text else Segment(text, segment.style)


console = Terminal(sys.stderr)
"""Messages go to stderr; stdout is for the results that a command prints."""


UNLIMITED = 100_000
"""Columns for which no table is too wide."""
PIPE_WIDTH = 100
"""Columns of a stage's line that is written to a file or a pipe."""
SHOWN_FIRST = (
    *("rows", "final_loss", "exact", "score", "mean_gap", "unscored", "flips", "failed", "unfilled", "proposed"),
    *("hard", "steps", "tokens", "tokens_per_second", "calls", "dropped", "truncated", "cut", "empty"),
)
"""Figures that are shown before all others if a line has no room for all."""


class Progress:
    """Progress bar of one stage; if stderr is not a terminal, a line a minute."""

    def __init__(self, label: str, total: int) -> None:
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        # Bars of several processes would overwrite each other.
        silent = bool(console.label) or not console.is_terminal
        self._bar = RichProgress(*columns, console=console, transient=True, disable=silent)
        self._task = self._bar.add_task(label, total=total)
        # A process that passes its steps on, such as a worker of a fit, has no steps of its own.
        self._lines = ProgressLines(label, total, print_note) if silent and total else None

    def __enter__(self) -> Self:
        self._bar.start()
        if self._lines is not None:
            self._lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._lines is not None:
            self._lines.stop()

    def advance(self, steps: int = 1) -> None:
        """Advance the bar by a number of steps."""
        self._bar.advance(self._task, steps)
        if self._lines is not None:
            self._lines.done += steps


def print_stage(name: str, figures: Mapping[str, Any], seconds: float, reused: bool, spent: float | None = 0.0) -> None:
    """Print one line for a finished stage: the figures that fit, its time or "reused", and the spend of the run.

    Args:
        name: Name of the stage.
        figures: Figures of its artifact; those that fit no more are in the manifest only.
        seconds: Time that it took.
        reused: Whether its artifact existed before.
        spent: What the run has spent so far, in USD; None if a price is unknown.
    """
    time = "reused" if reused else f"{seconds:.1f} s{_format_spend(spent)}"
    start = f"{name:<19}"
    room = _room() - cell_len(start) - len(time) - 3
    text = ""
    for key in sorted(figures, key=lambda key: SHOWN_FIRST.index(key) if key in SHOWN_FIRST else len(SHOWN_FIRST)):
        value = figures[key]
        shown = f"  {key} {_short(value)}"
        if value is not None and not isinstance(value, Mapping) and cell_len(text + shown) <= room:
            text += shown
    console.print(Text.assemble((start, "bold"), f"{text}  ", (time, "dim")), soft_wrap=True)


def _format_spend(usd: float | None) -> str:
    if usd is None:
        return "  spent: price unknown"
    return f"  spent ${usd:.{4 if usd < 1 else 2}f}" if usd else ""


def print_note(text: str) -> None:
    """Print a line that a later one replaces."""
    console.print(Text(text, "dim"), soft_wrap=True)


def print_warning(text: str) -> None:
    """Print a warning that the user must not overlook."""
    console.print(Text(text, "bold yellow"), soft_wrap=True)


def write_line(text: str) -> None:
    """Write a line of results to stdout; controls are escaped if a terminal shows it, and kept for other programs."""
    sys.stdout.write(f"{escape_controls(text) if sys.stdout.isatty() else text}\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of figures; the first column is text, the others are numbers.

    It has no lines if they would make it too wide, as beside the label of a job, and no figure is ever cut.
    """
    lines = _table_lines(_table(columns, rows, lines=True))
    if max(map(cell_len, lines)) > _room():
        lines = _table_lines(_table(columns, rows, lines=False))
    console.print("\n".join([title, *lines]), soft_wrap=True)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, lines: bool) -> Table:
    table = Table() if lines else Table(box=None, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        # Escaped here, since the width of a column is that of what is shown.
        table.add_column(escape_controls(column), justify="right" if index else "left")
    for row in rows:
        table.add_row(*map(escape_controls, row))
    return table


def _table_lines(table: Table) -> list[str]:
    # A terminal that is too narrow would cut figures, and so would a pipe, for which rich takes 80 columns.
    unlimited = console.options.update(width=UNLIMITED)
    needed = unlimited.update(width=console.measure(table, options=unlimited).maximum)
    return ["".join(part.text for part in line).rstrip() for line in console.render_lines(table, needed, pad=False)]


def _room() -> int:
    """Return the columns of a line beside the label of its job."""
    label = cell_len(f"[{console.label}] ") if console.label else 0
    return (console.width if console.is_terminal else PIPE_WIDTH) - label


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
