"""Cells of the paper tables, and their text in every format."""

from dataclasses import dataclass

from tapir_exp.core.markup import escape_latex, escape_url
from tapir_exp.report.arm_comparison import ArmComparison
from tapir_exp.report.published import Status
from tapir_exp.report.templates import NONE


@dataclass(frozen=True)
class OurResult:
    """Our value of a cell: the mean over training seeds, or the figure of one evaluation.

    Attributes:
        value: The value; None if there is none.
        error: Standard error, over seeds if there are several, else over the instructions of the benchmark.
        seeds: Number of evaluations in the mean.
        links: Manifests of these evaluations, relative to the tables.
        runs: Manifests of the runs that trained the students, relative to the tables.
        judge: Judge of these evaluations; None if the suite has none.
        missing_reason: Why there is no value; None if there is one.
        judge_differs: True if the published figures have another judge.
        missing_outputs: Instructions without an output of the model, the most of any evaluation.
        by_row: The figure with difficulties by row number, as the published ones; None if it is the same.
    """

    value: float | None
    error: float | None
    seeds: int
    links: tuple[str, ...]
    runs: tuple[str, ...]
    judge: str | None
    missing_reason: str | None
    judge_differs: bool = False
    missing_outputs: int = 0
    by_row: float | None = None

    @property
    def error_over(self) -> str | None:
        """Return "seeds" or "instructions", over which the error is computed; None without an error."""
        if self.error is None:
            return None
        return "seeds" if self.seeds > 1 else "instructions"


@dataclass(frozen=True)
class Cell:
    """A published figure and our result.

    Attributes:
        column: Name of the figure.
        published: Published value; None if it is unknown, or if the row is ours alone.
        status: Status of the published value; None if the row is ours alone.
        ours: Our result.
    """

    column: str
    published: float | None
    status: Status | None
    ours: OurResult


def cell_published(cell: Cell) -> str:
    """Return a published figure with its status in brackets; "?" if it is unknown, a dash if the row is ours alone."""
    if cell.published is None:
        return "?" if cell.status is Status.UNKNOWN else NONE
    return f"{cell.published:.2f} ({cell.status})"


def cell_ours(ours: OurResult) -> str:
    """Return our value with its error and the number of seeds.

    A dagger marks another judge, a double dagger missing outputs.
    """
    if ours.value is None:
        return NONE
    error = "" if ours.error is None else f" ± {ours.error:.2f}"
    seeds = f" ({ours.seeds} seeds)" if ours.seeds > 1 else ""
    return f"{ours.value:.2f}{error}{seeds}{'†' if ours.judge_differs else ''}{'‡' if ours.missing_outputs else ''}"


def cell_p(p: float | None) -> str:
    """Return a p-value with four decimals."""
    return NONE if p is None else f"{p:.4f}"


def cell_difference(comparison: ArmComparison) -> str:
    """Return the mean difference of an arm from TAPIR, in the unit of the suite."""
    return f"{comparison.interval.mean:+.2f}"


def cell_interval(comparison: ArmComparison) -> str:
    """Return the bounds of the difference of an arm from TAPIR."""
    low, high = comparison.interval.low, comparison.interval.high
    return NONE if low is None or high is None else f"{low:+.2f} to {high:+.2f}"


def cell_detectable(comparison: ArmComparison) -> str:
    """Return the smallest detectable difference."""
    return NONE if comparison.detectable is None else f"{comparison.detectable:.2f}"


def tex_link(url: str, text: str) -> str:
    """Return a LaTeX link with the escaped text."""
    return rf"\href{{{_tex_url(url)}}}{{{escape_latex(text)}}}"


def tex_note_link(url: str, note: str) -> str:
    """Return a LaTeX link with a superscript as text."""
    return rf"\href{{{_tex_url(url)}}}{{$^{{{note}}}$}}"


def _tex_url(url: str) -> str:
    # \href inside a macro reads its argument as text, where a percent sign is a comment.
    return "".join(f"\\{character}" if character in "%&#" else character for character in escape_url(url))


CELLS = {
    "published": cell_published,
    "ours": cell_ours,
    "p": cell_p,
    "difference": cell_difference,
    "interval": cell_interval,
    "detectable": cell_detectable,
    "tex": escape_latex,
    "tex_link": tex_link,
    "tex_note_link": tex_note_link,
}
"""Formatters of the templates, as `cell.NAME`."""
