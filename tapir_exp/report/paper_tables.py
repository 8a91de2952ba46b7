"""Write our evaluations vs. the published figures as Markdown, LaTeX, CSV and HTML, without any API call."""

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tapir_exp.core.errors import StoreError
from tapir_exp.core.evaluation_manifest import EVALUATION, EVALUATIONS
from tapir_exp.core.markup import escape_csv
from tapir_exp.core.store import write_text_atomic
from tapir_exp.evals.power import detectable_difference, error_of_difference, pairs_needed
from tapir_exp.evals.statistics import mean_and_error
from tapir_exp.report.arm_comparison import ArmComparison, compare_arms
from tapir_exp.report.evaluations import EvaluationResult, load_evaluation
from tapir_exp.report.paper_cells import CELLS, Cell, OurResult
from tapir_exp.report.published import MEANINGS, Column, Plan, PublishedRow, PublishedTable, Status, load_tables
from tapir_exp.report.rounds_table import rounds_to_csv, table_rounds
from tapir_exp.report.sweep.jobs import find_jobs
from tapir_exp.report.sweep.plan_file import PLAN
from tapir_exp.report.sweep.variants import Variants
from tapir_exp.report.templates import render

TABLES_DIR = "paper"
CSV_COLUMNS = (
    "table", "row", "figure", "published", "status", "ours", "error", "error_over", "seeds", "judge", "evaluations",
    "runs", "why",
)  # fmt: skip
NUMBERS = ("published", "ours", "error", "seeds")
"""Columns of numbers."""
ROUNDS = "rounds.csv"
"""File of the figures by round."""


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
    def has_results(self) -> bool:
        """Return whether any of our evaluations is in the table."""
        return any(cell.ours.value is not None for row in self.rows for cell in row.cells)

    @property
    def has_published_results(self) -> bool:
        """Return whether any published row has a result of ours."""
        return any(cell.status is not None and cell.ours.value is not None for row in self.rows for cell in row.cells)

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
    def incomplete(self) -> list[str]:
        """Describe the results that lack outputs, with the figures by row number."""
        lines = []
        for row in self.rows:
            if missing := max((cell.ours.missing_outputs for cell in row.cells), default=0):
                other = [
                    f"{cell.ours.by_row:.2f} ({self.published.columns[cell.column].title})"
                    for cell in row.cells
                    if cell.ours.by_row is not None
                ]
                by_row = f"; with difficulties by row number, as published: {', '.join(other)}" if other else ""
                lines.append(f"{row.label}: no output for {missing} instructions{by_row}")
        return lines

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

    For a sweep, only tables with a result of ours are written.

    Raises:
        StoreError: There is no such directory, or an artifact of an evaluation is missing.
    """
    tables_dir = directory / TABLES_DIR
    found, unfinished = load_evaluations(directory, tables_dir)
    tables_dir.mkdir(exist_ok=True)
    evaluations = [result for result in found if result.evaluation.last]
    tables = [build_table(name, table, evaluations) for name, table in load_tables().items()]
    if (directory / PLAN).is_file():
        tables = _relevant(tables)
    for name in load_tables().keys() - {table.name for table in tables}:
        for kind in ("md", "tex", "csv"):
            (tables_dir / f"{name}.{kind}").unlink(missing_ok=True)
    rounds = table_rounds(found)
    write_text_atomic(tables_dir / ROUNDS, rounds_to_csv(rounds))
    for table in tables:
        for kind in ("md", "tex"):
            text = render(f"paper.{kind}.jinja", table=table, cell=CELLS)
            write_text_atomic(tables_dir / f"{table.name}.{kind}", text)
        write_text_atomic(tables_dir / f"{table.name}.csv", to_csv(table))
    page = render(
        "paper.html.jinja", tables=tables, evaluations=evaluations, unfinished=unfinished, cell=CELLS, rounds=rounds
    )
    write_text_atomic(tables_dir / "index.html", page)
    return tables_dir / "index.html"


def _relevant(tables: Sequence[Table]) -> list[Table]:
    """Return the tables with results of ours; those with a published row of ours, if a suite has any such table."""
    with_results = [table for table in tables if table.has_results]
    matched = {table.published.suite for table in with_results if table.has_published_results}
    return [t for t in with_results if t.has_published_results or t.published.suite not in matched] or list(tables)


def write_tables_of_sweep(sweep_dir: Path) -> Path | None:
    """Write the tables of a sweep if any of its jobs has been evaluated, and return the HTML page, or None."""
    evaluated = any(sweep_dir.glob(f"*/{EVALUATIONS}/*/{EVALUATION}"))
    return write_paper_tables(sweep_dir) if evaluated else None


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
    unfinished = [
        str(path.relative_to(directory)) for path in sorted(started - finished) if not _has_jobs(path, finished)
    ]
    if (directory / PLAN).is_file():
        jobs = [job for job in find_jobs(directory) if not _has_jobs(job.path, finished)]
        unfinished += [str(job.path.relative_to(directory)) for job in jobs]
    variants = Variants()
    return [load_evaluation(path, tables_dir, variants) for path in sorted(finished)], unfinished


def _has_jobs(directory: Path, finished: Collection[Path]) -> bool:
    """Return whether a directory has finished evaluations below it: of the jobs of a sweep, or of a run's students."""
    return any(directory in path.parents for path in finished)


def build_table(name: str, published: PublishedTable, evaluations: Sequence[EvaluationResult]) -> Table:
    """Combine a published table with our evaluations of its suite.

    Args:
        name: Name of the table's files.
        published: The published table.
        evaluations: Our evaluations of any suite.

    Returns:
        The published rows with our results, then rows for the evaluations that match no published row.
    """
    candidates = [
        result
        for result in evaluations
        if published.suite in result.figures and (result.evaluation.arm or not published.arms_only)
    ]
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
    # Given outputs have no model but the name of their generator.
    if evaluation.model is None:
        return _model_name(evaluation.student) in row.aliases
    return row.model is not None and (evaluation.model, result.method) == (row.model, row.arm)


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
        missing_outputs=max(result.figures[table.suite].get("missing_outputs") or 0 for result, _ in results),
        by_row=_mean_by_row(results, table.suite, name),
    )


def _mean_by_row(results: Sequence[tuple[EvaluationResult, float]], suite: str, name: str) -> float | None:
    """Average the figure that takes difficulties by row number; an evaluation without missing outputs has only one."""
    others = [result.figures[suite].get(f"{name}_by_row") for result, _ in results]
    if all(value is None for value in others):
        return None
    return fmean(value if other is None else other for (_, value), other in zip(results, others, strict=True))


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


def read_cells(tables_dir: Path) -> list[dict[str, str | float | None]]:
    """Read the cells of all tables from their CSV files; an empty field is None, and a number is one."""
    cells = []
    for path in sorted(tables_dir.glob("*.csv")):
        if path.name == ROUNDS:
            continue
        with path.open(encoding="utf-8", newline="") as lines:
            rows = csv.DictReader(lines)
            cells += [{key: _to_value(key, text) for key, text in row.items()} for row in rows]
    return cells


def _to_value(column: str, text: str) -> str | float | None:
    if not text:
        return None
    return float(text) if column in NUMBERS else text


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
