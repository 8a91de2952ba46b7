"""The comparison as a table for other programs."""

import csv
import io
import math

from tapir_exp.report.sweep.comparison import Row, Sweep

CSV_HEAD = (
    "group", "jobs", "finished", "seeds", "tokens_mean", "tokens_min", "tokens_max", "accuracy", "low", "high",
    "difference", "difference_low", "difference_high", "pairs", "p", "p_holm",
)  # fmt: skip


def to_csv(sweep: Sweep) -> str:
    """One line a row at full precision; a figure that does not exist is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    tasks = sweep.tasks
    writer.writerow([*CSV_HEAD, *(f"accuracy {task}" for task in tasks)])
    for row in sweep.rows:
        means = [row.by_task[task].mean if task in row.by_task else None for task in tasks]
        writer.writerow([*_csv_cells(row), *means])
    return out.getvalue()


def _csv_cells(row: Row) -> list[object]:
    tokens, a, d = list(row.tokens.values()), row.accuracy, row.difference
    return [
        row.label,
        row.jobs,
        row.finished,
        " ".join(map(str, row.values)),
        *((math.fsum(tokens) / len(tokens), min(tokens), max(tokens)) if tokens else (None, None, None)),
        *((a.mean, a.low, a.high) if a else (None, None, None)),
        *((d.mean, d.low, d.high, d.n, d.p) if d else (None, None, None, None, None)),
        row.p_holm,
    ]
