"""Write the comparison as CSV."""

import csv
import io
import math

from tapir_exp.core.markup import escape_csv
from tapir_exp.report.sweep.comparison import ACCURACY, TOKENS, ComparisonRow, Sweep
from tapir_exp.report.sweep.grouping import to_number

CSV_COLUMNS = (
    "jobs", "finished", "seeds", "tokens_mean", "tokens_min", "tokens_max", "accuracy", "low", "high",
    "difference", "difference_low", "difference_high", "pairs", "p", "p_holm",
)  # fmt: skip
FINAL_LOSS = "train/final_loss"
RUN_COLUMNS = ("seed", "accuracy", "tokens", "loss", "seconds", "calls", "usd", "reason")


def to_csv(sweep: Sweep) -> str:
    """Return one line per row, one column per setting, at full precision; a missing value is an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    tasks = sweep.tasks
    writer.writerow([*map(escape_csv, sweep.columns), *CSV_COLUMNS, *(f"accuracy {task}" for task in tasks)])
    for row in sweep.rows:
        task_means = [row.by_task[task].mean if task in row.by_task else None for task in tasks]
        writer.writerow([*_settings(sweep, row.label), *(escape_csv(cell) for cell in (*_cells(row), *task_means))])
    return out.getvalue()


def runs_to_csv(sweep: Sweep) -> str:
    """Return one line per job, finished or not."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["directory", "state", *map(escape_csv, sweep.columns), *RUN_COLUMNS])
    for label in (row.label for row in sweep.rows):
        for job in sweep.groups[label]:
            metrics = [job.final_metric(name) for name in (ACCURACY, TOKENS, FINAL_LOSS)]
            done = job.outcome
            spend = [done.seconds, done.calls, done.usd, job.problem]
            start = [escape_csv(str(job.path.relative_to(sweep.path))), job.state, *_settings(sweep, label)]
            writer.writerow([*start, *(escape_csv(cell) for cell in (job.seed, *metrics, *spend))])
    return out.getvalue()


def _settings(sweep: Sweep, label: str) -> list[object]:
    """Return the values of the columns of a row; a negative number is no formula."""
    return [value if to_number(value) is not None else escape_csv(value) for value in sweep.settings[label]]


def _cells(row: ComparisonRow) -> list[object]:
    """Return the fields of a row in the order of `CSV_COLUMNS`."""
    tokens = list(row.tokens.values())
    accuracy, diff = row.accuracy, row.difference
    cells: list[object] = [row.jobs, row.finished, " ".join(map(str, row.accuracy_by_seed))]
    cells += [math.fsum(tokens) / len(tokens), min(tokens), max(tokens)] if tokens else [None] * 3
    cells += [accuracy.mean, accuracy.low, accuracy.high] if accuracy else [None] * 3
    cells += [diff.mean, diff.low, diff.high, diff.n, diff.p] if diff else [None] * 5
    return [*cells, row.p_holm]
