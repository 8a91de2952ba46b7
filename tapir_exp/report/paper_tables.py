"""Our evaluations beside the published figures: Markdown, LaTeX, CSV and one HTML page, built without a single call."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapir_exp.core.errors import StoreError
from tapir_exp.core.evaluation_manifest import EVALUATION
from tapir_exp.core.store import write_text_atomic
from tapir_exp.evals.power import detectable_difference, error_of_difference, pairs_needed
from tapir_exp.evals.statistics import mean_and_error
from tapir_exp.report.arm_comparison import ArmComparison, compare_arms
from tapir_exp.report.evaluations import EvaluationResult, load_evaluation
from tapir_exp.report.published import MEANINGS, Column, Plan, PublishedRow, PublishedTable, Status, load_tables
from tapir_exp.report.templates import render

FOLDER = "paper"
CSV_HEAD = (
    "table", "row", "figure", "published", "status", "ours", "error", "error_over", "seeds", "judge", "evaluations",
    "runs", "why",
)  # fmt: skip


@dataclass(frozen=True)
class OurResult:
    """A cell of ours: a mean over training seeds, or one evaluation's figure; `why` says why there is none.

    error: the standard error, over seeds where there are several, else over the benchmark's instructions.
    links, runs: the manifests of the evaluations behind it and of the runs that trained the students, relative to the
    tables.
    strange_judge: another judge than the published figures had.
    """

    value: float | None
    error: float | None
    seeds: int
    links: tuple[str, ...]
    runs: tuple[str, ...]
    judge: str | None
    reason: str | None
    strange_judge: bool = False

    @property
    def error_over(self) -> str | None:
        """What the error is over."""
        return None if self.error is None else "seeds" if self.seeds > 1 else "instructions"


@dataclass(frozen=True)
class Cell:
    """A published figure with its status, and ours beside it."""

    column: str
    published: float | None
    status: Status | None
    ours: OurResult


@dataclass(frozen=True)
class Line:
    """A row of a table."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A published table with ours beside it."""

    name: str
    published: PublishedTable
    lines: tuple[Line, ...]
    comparisons: tuple[ArmComparison, ...]
    meanings: Mapping[Status, str]

    @property
    def reasons(self) -> list[str]:
        """The distinct reasons why cells of ours are missing, in the order of the table."""
        return list(dict.fromkeys(cell.ours.reason for line in self.lines for cell in line.cells if cell.ours.reason))

    @property
    def judges(self) -> list[str]:
        """Judges of ours that the published figures did not have."""
        strange = (cell.ours for line in self.lines for cell in line.cells if cell.ours.strange_judge)
        return sorted({ours.judge for ours in strange if ours.judge})

    @property
    def statuses(self) -> list[Status]:
        """The statuses that occur, in the order of their strength."""
        seen = {cell.status for line in self.lines for cell in line.cells}
        return [status for status in Status if status in seen]

    @property
    def plan(self) -> str | None:
        """What it would take to tell the two figures of the table's plan apart."""
        return None if self.published.plan is None else describe_plan(self.published.plan)


def write_paper_tables(directory: Path) -> Path:
    """Write every table over the evaluations below `directory` into its folder `paper`; returns the page.

    Raises StoreError where there is no such directory, or an artifact of an evaluation is gone.
    """
    folder = directory / FOLDER
    measured, unfinished = load_evaluations(directory, folder)
    folder.mkdir(exist_ok=True)
    tables = [build_table(name, table, measured) for name, table in load_tables().items()]
    for table in tables:
        for kind in ("md", "tex"):
            write_text_atomic(folder / f"{table.name}.{kind}", render(f"paper.{kind}.jinja", table=table, cell=CELLS))
        write_text_atomic(folder / f"{table.name}.csv", to_csv(table))
    page = render("paper.html.jinja", tables=tables, measured=measured, unfinished=unfinished, cell=CELLS)
    write_text_atomic(folder / "index.html", page)
    return folder / "index.html"


def load_evaluations(directory: Path, folder: Path) -> tuple[list[EvaluationResult], list[str]]:
    """The finished evaluations below a directory, in the order of their paths, and those that are not finished."""
    if not directory.is_dir():
        raise StoreError(f"There is no directory {directory}.")
    begun = sorted({*(path.parent for path in directory.rglob(EVALUATION)), *_begun(directory)})
    finished = [path for path in begun if (path / EVALUATION).is_file()]
    measured = [load_evaluation(path, folder) for path in finished]
    return measured, [str(path.relative_to(directory)) for path in begun if path not in finished]


def _begun(directory: Path) -> list[Path]:
    """Where `tapir-evaluate` began, by what Hydra wrote down."""
    noted = directory.rglob(".hydra/hydra.yaml")
    return [path.parent.parent for path in noted if "config_name: evaluate\n" in path.read_text(encoding="utf-8")]


def build_table(name: str, published: PublishedTable, measured: Sequence[EvaluationResult]) -> Table:
    """One table: the published rows with ours beside them, then the rows that are ours alone."""
    suited = [found for found in measured if published.suite in found.figures]
    lines, placed = [], set()
    for row in published.rows:
        group = _pick([found for found in suited if _belongs(found, row)], published)
        placed |= {found.link for found in group}
        lines.append(_line(row, published, group))
    alone = [found for found in suited if found.link not in placed]
    lines += [
        _line(PublishedRow(label=group[0].label, figures={}), published, group, ours=True)
        for group in _groups(alone, published)
    ]
    return Table(name, published, tuple(lines), tuple(compare_arms(published.suite, suited)), MEANINGS)


def _belongs(found: EvaluationResult, row: PublishedRow) -> bool:
    known = found.evaluation
    return row.model is not None and (known.model, known.arm) == (row.model, row.arm)


def _groups(measured: Sequence[EvaluationResult], table: PublishedTable) -> list[list[EvaluationResult]]:
    """Evaluations of one label, judge and benchmark together; a second one of a seed begins a group of its own."""
    left, groups = list(measured), []
    while left:
        groups.append(_pick([found for found in left if found.label == left[0].label], table))
        taken = {found.link for found in groups[-1]}
        left = [found for found in left if found.link not in taken]
    return groups


def _pick(measured: Sequence[EvaluationResult], table: PublishedTable) -> list[EvaluationResult]:
    """Those of one judge and benchmark, of the table's judge where there are any; of each seed the first."""
    preferred = [found for found in measured if _short(found.circumstances(table.suite)[0]) == table.judge] or measured
    by_seed: dict[int | None, EvaluationResult] = {}
    for found in preferred:
        if found.circumstances(table.suite) == preferred[0].circumstances(table.suite):
            by_seed.setdefault(found.evaluation.seed, found)
    return list(by_seed.values())


def _line(row: PublishedRow, table: PublishedTable, group: Sequence[EvaluationResult], *, ours: bool = False) -> Line:
    return Line(
        row.label,
        tuple(
            Cell(
                name,
                row.figures[name].value if name in row.figures else None,
                None if ours else row.figures[name].status if name in row.figures else Status.UNKNOWN,
                _ours(row, name, column, table, group),
            )
            for name, column in table.columns.items()
        ),
    )


def _ours(
    row: PublishedRow, name: str, column: Column, table: PublishedTable, group: Sequence[EvaluationResult]
) -> OurResult:
    if not group:
        return _missing(_why_nothing(row, table))
    known = [(found, v) for found in group if (v := found.figures[table.suite].get(name)) is not None]
    if not known:
        return _missing(group[0].why_not(table.suite, name))
    value, error = _mean([value for _, value in known], known[0][0], table.suite, column)
    links = tuple(found.link for found, _ in known)
    runs = tuple(found.run for found, _ in known if found.run is not None)
    judge, _ = group[0].circumstances(table.suite)
    strange = table.judge is not None and _short(judge) != table.judge
    return OurResult(value, error, len(known), links, runs, judge, None, strange)


def _mean(values: Sequence[float], found: EvaluationResult, suite: str, column: Column) -> tuple[float, float | None]:
    """The mean over seeds with its error; of one seed, the figure with the benchmark's own error."""
    if len(values) > 1:
        estimate = mean_and_error(values)
        return estimate.mean, estimate.error
    return values[0], found.figures[suite].get(column.error) if column.error else None


def _missing(reason: str) -> OurResult:
    return OurResult(None, None, 0, (), (), None, reason)


def _why_nothing(row: PublishedRow, table: PublishedTable) -> str:
    if row.model is None:
        return "not one of the models that this framework trains or loads by name"
    arm = f", arm {row.arm}" if row.arm else ", as it is"
    return f"no finished evaluation of {row.model}{arm}, on {table.suite}"


def _short(model: str | None) -> str | None:
    return None if model is None else model.rpartition("/")[2]


def describe_plan(plan: Plan) -> str:
    """What two figures with equal errors can and cannot show, and how many instructions would tell them apart."""
    gap = abs(plan.first - plan.second)
    error = error_of_difference(plan.error, plan.error)
    deviation = plan.error * math.sqrt(2 * plan.n)
    unpaired, paired = (pairs_needed(gap, deviation * math.sqrt(1 - correlation)) for correlation in (0.0, 0.5))
    return (
        f"{plan.first:.2f} against {plan.second:.2f} on {plan.n} instructions: the difference of {gap:.2f} has a "
        f"standard error of {error:.2f} (unpaired), and the smallest difference found with 80 % power at the 5 % level "
        f"is {detectable_difference(error):.1f}. To find {gap:.2f} needs about {unpaired:,} instructions, "
        f"or {paired:,} where the two models' preferences correlate by 0.5."
    )


def to_csv(table: Table) -> str:
    """One line a cell at full precision; what does not exist is an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for line in table.lines:
        for cell in line.cells:
            ours, links = cell.ours, (" ".join(cell.ours.links), " ".join(cell.ours.runs))
            figure = (table.name, line.label, cell.column, cell.published, cell.status)
            writer.writerow(
                [*figure, ours.value, ours.error, ours.error_over, ours.seeds or None, ours.judge, *links, ours.reason]
            )
    return out.getvalue()


def cell_published(cell: Cell) -> str:
    """A published figure with its status in brackets; a dash where nothing is published."""
    if cell.published is None:
        return "?" if cell.status is Status.UNKNOWN else "–"
    return f"{cell.published:.2f} ({cell.status})"


def cell_ours(ours: OurResult) -> str:
    """A figure of ours with its error, and the number of seeds where there are several."""
    if ours.value is None:
        return "–"
    error = "" if ours.error is None else f" ± {ours.error:.2f}"
    seeds = f" ({ours.seeds} seeds)" if ours.seeds > 1 else ""
    return f"{ours.value:.2f}{error}{seeds}{'†' if ours.strange_judge else ''}"


def cell_p(p: float | None) -> str:
    """A p-value to four decimals."""
    return "–" if p is None else f"{p:.4f}"


def tex(text: str) -> str:
    """Text with LaTeX's own characters escaped."""
    named = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "†": r"$\dagger$",
    }
    plain = {"–": "--", "α": r"$\alpha$", "δ": r"$\delta$"}
    return "".join(named.get(c) or plain.get(c) or (f"\\{c}" if c in "&%$#_{}" else c) for c in text)


CELLS = {"published": cell_published, "ours": cell_ours, "p": cell_p, "tex": tex}
"""How the templates print figures."""
