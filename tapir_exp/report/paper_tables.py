"""Write our evaluations vs. the published figures as Markdown, LaTeX, CSV and HTML, without any API call."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapir_exp.core.errors import StoreError
from tapir_exp.core.evaluation_manifest import EVALUATION
from tapir_exp.core.markup import escape_csv, escape_latex, escape_url
from tapir_exp.core.store import write_text_atomic
from tapir_exp.evals.power import detectable_difference, error_of_difference, pairs_needed
from tapir_exp.evals.statistics import mean_and_error
from tapir_exp.report.arm_comparison import ArmComparison, compare_arms
from tapir_exp.report.evaluations import EvaluationResult, load_evaluation
from tapir_exp.report.published import MEANINGS, Column, Plan, PublishedRow, PublishedTable, Status, load_tables
from tapir_exp.report.templates import NONE, render

TABLES_DIR = "paper"
CSV_COLUMNS = (
    "table", "row", "figure", "published", "status", "ours", "error", "error_over", "seeds", "judge", "evaluations",
    "runs", "why",
)  # fmt: skip


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
    """

    value: float | None
    error: float | None
    seeds: int
    links: tuple[str, ...]
    runs: tuple[str, ...]
    judge: str | None
    missing_reason: str | None
    judge_differs: bool = False

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


@dataclass(frozen=True)
class TableRow:
    """A row of a table."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A published table with our results.

    Attributes:
        name: Name of its files.
        published: The published table.
        rows: Published rows first, then the rows that are ours alone.
        comparisons: Our arms vs. TAPIR on the suite of the table.
        meanings: Legend of the statuses.
    """

    name: str
    published: PublishedTable
    rows: tuple[TableRow, ...]
    comparisons: tuple[ArmComparison, ...]
    meanings: Mapping[Status, str]

    @property
    def missing_reasons(self) -> list[str]:
        """Return the distinct reasons for missing results, in the order of the table."""
        reasons = (cell.ours.missing_reason for row in self.rows for cell in row.cells)
        return list(dict.fromkeys(reason for reason in reasons if reason))

    @property
    def other_judges(self) -> list[str]:
        """Return our judges that differ from the judge of the published figures."""
        results = (cell.ours for row in self.rows for cell in row.cells if cell.ours.judge_differs)
        return sorted({result.judge for result in results if result.judge})

    @property
    def statuses(self) -> list[Status]:
        """Return the statuses that occur, the most certain first."""
        present = {cell.status for row in self.rows for cell in row.cells}
        return [status for status in Status if status in present]

    @property
    def plan(self) -> str | None:
        """Return the power analysis of the table's plan in words; None without a plan."""
        return None if self.published.plan is None else describe_plan(self.published.plan)


def write_paper_tables(directory: Path) -> Path:
    """Write the tables over all evaluations below `directory` into `directory/paper`, and return the HTML page.

    Raises:
        StoreError: There is no such directory, or an artifact of an evaluation is missing.
    """
    tables_dir = directory / TABLES_DIR
    evaluations, unfinished = load_evaluations(directory, tables_dir)
    tables_dir.mkdir(exist_ok=True)
    tables = [build_table(name, table, evaluations) for name, table in load_tables().items()]
    for table in tables:
        for kind in ("md", "tex"):
            text = render(f"paper.{kind}.jinja", table=table, cell=CELLS)
            write_text_atomic(tables_dir / f"{table.name}.{kind}", text)
        write_text_atomic(tables_dir / f"{table.name}.csv", to_csv(table))
    page = render("paper.html.jinja", tables=tables, evaluations=evaluations, unfinished=unfinished, cell=CELLS)
    write_text_atomic(tables_dir / "index.html", page)
    return tables_dir / "index.html"


def load_evaluations(directory: Path, tables_dir: Path) -> tuple[list[EvaluationResult], list[str]]:
    """Load the finished evaluations below a directory.

    Args:
        directory: Directory of the evaluations.
        tables_dir: Directory of the tables; links are relative to it.

    Returns:
        The finished evaluations in the order of their paths, and the paths of the unfinished ones.

    Raises:
        StoreError: There is no such directory, or an artifact of an evaluation is missing.
    """
    if not directory.is_dir():
        raise StoreError(f"{directory} is not a directory. Give the directory that contains the evaluations.")
    # Hydra writes its own files first, so that they reveal the evaluations that have not finished.
    hydra_files = directory.rglob(".hydra/hydra.yaml")
    started = {f.parent.parent for f in hydra_files if "config_name: evaluate\n" in f.read_text(encoding="utf-8")}
    finished = {path.parent for path in directory.rglob(EVALUATION)}
    unfinished = [str(path.relative_to(directory)) for path in sorted(started - finished)]
    return [load_evaluation(path, tables_dir) for path in sorted(finished)], unfinished


def build_table(name: str, published: PublishedTable, evaluations: Sequence[EvaluationResult]) -> Table:
    """Combine a published table with our evaluations of its suite.

    Args:
        name: Name of the table's files.
        published: The published table.
        evaluations: Our evaluations of any suite.

    Returns:
        The published rows with our results, then rows for the evaluations that match no published row.
    """
    candidates = [result for result in evaluations if published.suite in result.figures]
    # Each evaluation is in one row only: a published one if any matches, else one with its label.
    rows, used = [], set()
    for row in published.rows:
        group = _select([result for result in candidates if _matches(result, row)], published)
        used |= {result.link for result in group}
        rows.append(_table_row(row, published, group))
    remaining = [result for result in candidates if result.link not in used]
    rows += [
        _table_row(PublishedRow(label=group[0].label, figures={}), published, group, ours_only=True)
        for group in _group(remaining, published)
    ]
    return Table(name, published, tuple(rows), tuple(compare_arms(published.suite, candidates)), MEANINGS)


def _matches(result: EvaluationResult, row: PublishedRow) -> bool:
    evaluation = result.evaluation
    return row.model is not None and (evaluation.model, evaluation.arm) == (row.model, row.arm)


def _group(evaluations: Sequence[EvaluationResult], table: PublishedTable) -> list[list[EvaluationResult]]:
    """Group evaluations by label, judge and benchmark; a second evaluation of a seed starts another group."""
    remaining, groups = list(evaluations), []
    while remaining:
        groups.append(_select([result for result in remaining if result.label == remaining[0].label], table))
        used = {result.link for result in groups[-1]}
        remaining = [result for result in remaining if result.link not in used]
    return groups


def _select(evaluations: Sequence[EvaluationResult], table: PublishedTable) -> list[EvaluationResult]:
    """Select evaluations of one judge and benchmark, preferably the table's judge, and the first of each seed."""
    suite = table.suite
    # The first evaluation fixes judge and benchmark, because figures of others are not comparable with it.
    same_judge = [e for e in evaluations if _model_name(e.comparability_key(suite)[0]) == table.judge]
    preferred = same_judge or evaluations
    by_seed: dict[int | None, EvaluationResult] = {}
    for result in preferred:
        if result.comparability_key(suite) == preferred[0].comparability_key(suite):
            by_seed.setdefault(result.evaluation.seed, result)
    return list(by_seed.values())


def _table_row(
    row: PublishedRow, table: PublishedTable, group: Sequence[EvaluationResult], *, ours_only: bool = False
) -> TableRow:
    """Build a row from the published figures and our evaluations of its model and arm."""
    cells = []
    for name, column in table.columns.items():
        figure = row.figures.get(name)
        status = None if ours_only else figure.status if figure else Status.UNKNOWN
        cells.append(Cell(name, figure.value if figure else None, status, _our_result(row, name, column, table, group)))
    return TableRow(row.label, tuple(cells))


def _our_result(
    row: PublishedRow, name: str, column: Column, table: PublishedTable, group: Sequence[EvaluationResult]
) -> OurResult:
    """Average a figure over our evaluations, or give the reason why there is none."""
    if not group:
        return _missing(_no_evaluation_reason(row, table))
    # Evaluations may lack single figures, such as the length-controlled win rate without its data file.
    results = [(result, v) for result in group if (v := result.figures[table.suite].get(name)) is not None]
    if not results:
        return _missing(group[0].missing_reason(table.suite, name))
    first = results[0][0]
    value, error = _mean([value for _, value in results], first, table.suite, column)
    judge, _ = first.comparability_key(table.suite)
    return OurResult(
        value=value,
        error=error,
        seeds=len(results),
        links=tuple(result.link for result, _ in results),
        runs=tuple(result.run for result, _ in results if result.run is not None),
        judge=judge,
        missing_reason=None,
        judge_differs=table.judge is not None and _model_name(judge) != table.judge,
    )


def _mean(values: Sequence[float], first: EvaluationResult, suite: str, column: Column) -> tuple[float, float | None]:
    """Return mean and error over seeds; for one seed, the figure and its error within the benchmark."""
    if len(values) > 1:
        estimate = mean_and_error(values)
        return estimate.mean, estimate.error
    return values[0], first.figures[suite].get(column.error) if column.error else None


def _missing(reason: str) -> OurResult:
    return OurResult(value=None, error=None, seeds=0, links=(), runs=(), judge=None, missing_reason=reason)


def _no_evaluation_reason(row: PublishedRow, table: PublishedTable) -> str:
    if row.model is None:
        return "not a model that this framework can train or load by name"
    model = f"{row.model}, arm {row.arm}," if row.arm else f"the original {row.model}"
    return f"no finished evaluation of {model} on {table.suite}"


def _model_name(model: str | None) -> str | None:
    """Return a model id without its provider: different providers serve the same judge."""
    return None if model is None else model.rpartition("/")[2]


def describe_plan(plan: Plan) -> str:
    """Describe the power of a comparison of two figures with equal errors, and the instructions that it needs."""
    gap = abs(plan.first - plan.second)
    error = error_of_difference(plan.error, plan.error)
    # Standard deviation of the difference on one instruction, if the two models are uncorrelated.
    deviation = plan.error * math.sqrt(2 * plan.n)
    # Correlated models need fewer instructions; 0.5 shows the order of magnitude.
    unpaired, paired = (pairs_needed(gap, deviation * math.sqrt(1 - correlation)) for correlation in (0.0, 0.5))
    return (
        f"{plan.first:.2f} vs. {plan.second:.2f} on {plan.n} instructions: the difference of {gap:.2f} has a "
        f"standard error of {error:.2f} (unpaired). The smallest difference detected with 80 % power at the 5 % level "
        f"is {detectable_difference(error):.1f}. To detect {gap:.2f} requires about {unpaired:,} instructions, "
        f"or {paired:,} if the preferences of the two models correlate by 0.5."
    )


def to_csv(table: Table) -> str:
    """Return one line per cell at full precision; a missing value is an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in table.rows:
        for cell in row.cells:
            ours = cell.ours
            published = (table.name, row.label, cell.column, cell.published, cell.status)
            result = (ours.value, ours.error, ours.error_over, ours.seeds or None, ours.judge)
            cells = [*published, *result, " ".join(ours.links), " ".join(ours.runs), ours.missing_reason]
            writer.writerow([escape_csv(value) for value in cells])
    return out.getvalue()


def cell_published(cell: Cell) -> str:
    """Return a published figure with its status in brackets; "?" if it is unknown, a dash if the row is ours alone."""
    if cell.published is None:
        return "?" if cell.status is Status.UNKNOWN else NONE
    return f"{cell.published:.2f} ({cell.status})"


def cell_ours(ours: OurResult) -> str:
    """Return our value with its error and the number of seeds; a dagger marks another judge."""
    if ours.value is None:
        return NONE
    error = "" if ours.error is None else f" ± {ours.error:.2f}"
    seeds = f" ({ours.seeds} seeds)" if ours.seeds > 1 else ""
    return f"{ours.value:.2f}{error}{seeds}{'†' if ours.judge_differs else ''}"


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
