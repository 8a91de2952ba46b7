"""Write the comparison as CSV."""

import csv
import io
import math

from tapir_exp.core.markup import escape_csv
from tapir_exp.report.sweep.comparison import ComparisonRow, Sweep

CSV_COLUMNS = (
    "group", "jobs", "finished", "seeds", "tokens_mean", "tokens_min", "tokens_max", "accuracy", "low", "high",
    "difference", "difference_low", "difference_high", "pairs", "p", "p_holm",
)  # fmt: skip


def to_csv(sweep: Sweep) -> str:
    """Return one line per row at full precision; a missing value is an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    tasks = sweep.tasks
    writer.writerow([*CSV_COLUMNS, *(f"accuracy {task}" for task in tasks)])
    for row in sweep.rows:
        task_means = [row.by_task[task].mean if task in row.by_task else None for task in tasks]
        writer.writerow([escape_csv(cell) for cell in (*_cells(row), *task_means)])
    return out.getvalue()


def _cells(row: ComparisonRow) -> list[object]:
    """Return the fields of a row in the order of `CSV_COLUMNS`."""
    tokens = list(row.tokens.values())
    accuracy, diff = row.accuracy, row.difference
    cells: list[object] = [row.label, row.jobs, row.finished, " ".join(map(str, row.accuracy_by_seed))]
    cells += [math.fsum(tokens) / len(tokens), min(tokens), max(tokens)] if tokens else [None] * 3
    cells += [accuracy.mean, accuracy.low, accuracy.high] if accuracy else [None] * 3
    cells += [diff.mean, diff.low, diff.high, diff.n, diff.p] if diff else [None] * 5
    return [*cells, row.p_holm]
