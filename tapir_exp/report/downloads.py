"""Figures of a run's charts as CSV, inside the page, so that it stays one file."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from tapir_exp.core.markup import escape_csv
from tapir_exp.evals.statistics import accuracy_by_task, macro_accuracy
from tapir_exp.report import charts
from tapir_exp.report.run_view import RunView

MAX_STEPS = 200
"""Steps of each fit in the file of the losses."""
Cell = str | float | None


@dataclass(frozen=True)
class Download:
    """A file that a link of the page holds."""

    file: str
    link: str


def run_downloads(run: RunView) -> Mapping[str, Download]:
    """Return the files of the charts that have something to draw, by the name of the chart."""
    tables: Mapping[str, tuple[Sequence[str], Iterable[Sequence[Cell]]]] = {
        "gaps": (("student", "from", "to", "rows"), _gaps(run)),
        "mix": (("task", "seeds", *(f"mix_{r.number}" for r in run.rounds if r.mix), "target"), _mix(run)),
        "loss": (("student", "step", "tokens", "loss", "loss_hard", "loss_rest"), _losses(run)),
        "benchmark": (("student", "task", "accuracy", "standard_error", "problems"), _benchmark(run)),
    }
    found = {name: csv_download(f"{name}.csv", head, list(rows)) for name, (head, rows) in tables.items()}
    return {name: download for name, download in found.items() if download is not None}


def csv_download(file: str, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Download | None:
    """Return rows as a file inside a link; None without rows. No spreadsheet runs its cells as formulas."""
    if not rows:
        return None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([escape_csv(cell) for cell in row] for row in rows)
    return Download(file, f"data:text/csv;charset=utf-8,{quote(text.getvalue())}")


def _gaps(run: RunView) -> Iterator[Sequence[Cell]]:
    for r in run.rounds:
        for low, high, count in charts.gap_bins(r.gaps, run.manifest.delta):
            yield r.number, low, high, count


def _mix(run: RunView) -> Iterator[Sequence[Cell]]:
    mixes = [Counter(row.task for row in r.mix.values()) for r in run.rounds if r.mix]
    if not mixes:
        return
    seeds = Counter(label.task for label in run.labels.values())
    counts = [seeds, *mixes]
    for task in run.tasks:
        target = run.manifest.target
        shares = [count[task] / max(1, sum(n for key, n in count.items() if key is not None)) for count in counts]
        yield str(task), *(round(share, 6) for share in shares), target.get(task, 0.0) if target else None


def _losses(run: RunView) -> Iterator[Sequence[Cell]]:
    for r in run.rounds:
        for step in r.steps[:: max(1, len(r.steps) // MAX_STEPS)]:
            yield (
                r.number,
                step.step,
                step.tokens,
                _rounded(step.loss),
                _rounded(step.loss_hard),
                _rounded(step.loss_rest),
            )


def _rounded(loss: float | None) -> float | None:
    return None if loss is None else round(loss, 5)


def _benchmark(run: RunView) -> Iterator[Sequence[Cell]]:
    for r in run.rounds:
        if not r.benchmark:
            continue
        accuracies = [("all families, macro", macro_accuracy(r.benchmark)), *accuracy_by_task(r.benchmark).items()]
        for task, one in accuracies:
            yield r.number, str(task), round(one.mean, 6), _rounded(one.error), one.n
