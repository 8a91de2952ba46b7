"""How well a classifier names task types: accuracy, macro-F1, agreement, calibration; pure.

Rows are counted in a confusion matrix, one line a true type, one column a type named, in the order of the taxonomy, and
a last column for rows left unlabelled, which are wrong. Intervals are percentile bootstraps over rows; a type of very
few rows is not in every resample, so the interval of a macro-F1 that rests on such types leans upwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tapir_exp.core.task_types import TaskType
from tapir_exp.evals.statistics import LEVEL, Interval

TASKS = tuple(TaskType)
UNLABELLED = len(TASKS)
"""The column of rows without a label."""
BINS = 10
"""Bins of the reliability diagram, of equal width."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class TaskFigures:
    """One type: rows that are of it, rows said to be, and how they overlap; a ratio of nothing is None."""

    task: TaskType
    rows: int
    named: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Bin:
    """Rows whose confidence lies in (low, high]: how sure the classifier was in the mean, and how often right."""

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class ClassificationFigures:
    """What a comparison of labels with the truth, or with another classifier's labels, shows.

    macro_f1: over the types that the truth holds. kappa: Cohen's, the agreement beyond chance.
    calibration_error: expected (ECE), 0 to 1; None where the classifier does not say how sure it is.
    """

    rows: int
    unlabelled: int
    accuracy: Interval
    macro_f1: Interval
    kappa: Interval
    calibration_error: float | None
    reliability: tuple[Bin, ...]
    by_task: tuple[TaskFigures, ...]
    confusion: tuple[tuple[int, ...], ...]


def measure(
    truth: Sequence[TaskType],
    named: Sequence[TaskType | None],
    confidences: Sequence[float | None],
    *,
    resamples: int,
    seed: int,
) -> ClassificationFigures:
    """Compare labels with the truth, row by row. Raises ValueError for no rows."""
    if not truth:
        raise ValueError("a classifier cannot be measured on no rows")
    true, said = task_indices(truth), task_indices(named)
    counts = confusion_matrix(true, said, UNLABELLED + 1)
    bins = reliability(true == said, confidences)
    return ClassificationFigures(
        rows=len(true),
        unlabelled=int((said == UNLABELLED).sum()),
        accuracy=_bootstrap(true, said, accuracy, resamples, seed),
        macro_f1=_bootstrap(true, said, macro_f1, resamples, seed),
        kappa=_bootstrap(true, said, kappa, resamples, seed),
        calibration_error=calibration_error(bins),
        reliability=bins,
        by_task=tuple(_task_figures(counts, place) for place in range(UNLABELLED) if counts[place].any()),
        confusion=tuple(tuple(int(count) for count in row) for row in counts[:UNLABELLED]),
    )


def task_indices(tasks: Sequence[TaskType | None]) -> Counts:
    """The column of each type in the confusion matrix."""
    return np.array([UNLABELLED if task is None else TASKS.index(task) for task in tasks], dtype=np.int64)


def confusion_matrix(true: Counts, said: Counts, size: int) -> Counts:
    """How many rows of each true place were said to be of each: (size, size)."""
    counts: Counts = np.bincount(true * size + said, minlength=size * size).reshape(size, size)
    return counts


def accuracy(counts: Counts) -> float:
    """Share of rows on the diagonal."""
    return float(np.trace(counts) / counts.sum())


def macro_f1(counts: Counts) -> float:
    """Mean F1 over the types that occur in the truth: 2 hits / (rows of the type + rows said to be)."""
    rows, named, hits = counts.sum(1), counts.sum(0), np.diag(counts)
    present = rows > 0
    return float((2 * hits[present] / (rows + named)[present]).mean())


def kappa(counts: Counts) -> float:
    """Cohen's kappa (1960): (observed - expected) / (1 - expected) agreement; 1 where chance alone agrees on all."""
    total = counts.sum()
    expected = float((counts.sum(1) * counts.sum(0)).sum() / total**2)
    return 1.0 if expected == 1 else (accuracy(counts) - expected) / (1 - expected)


def reliability(right: NDArray[np.bool_], confidences: Sequence[float | None]) -> tuple[Bin, ...]:
    """The bins that hold rows; rows without a confidence are in none."""
    known = np.array([place for place, sure in enumerate(confidences) if sure is not None], dtype=np.int64)
    if not len(known):
        return ()
    sure, hits = np.array([confidences[place] for place in known], dtype=np.float64), right[known]
    of = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    return tuple(
        Bin(b / BINS, (b + 1) / BINS, int((of == b).sum()), float(sure[of == b].mean()), float(hits[of == b].mean()))
        for b in range(BINS)
        if (of == b).any()
    )


def calibration_error(bins: Sequence[Bin]) -> float | None:
    """ECE (Naeini et al., AAAI 2015): |confidence - accuracy|, averaged over the rows."""
    rows = sum(b.rows for b in bins)
    return sum(b.rows * abs(b.confidence - b.accuracy) for b in bins) / rows if rows else None


def _task_figures(counts: Counts, place: int) -> TaskFigures:
    rows, named, hits = int(counts[place].sum()), int(counts[:, place].sum()), int(counts[place, place])
    return TaskFigures(
        TASKS[place],
        rows,
        named,
        precision=hits / named if named else None,
        recall=hits / rows if rows else None,
        f1=2 * hits / (rows + named) if rows + named else None,
    )


def _bootstrap(true: Counts, said: Counts, statistic: Callable[[Counts], float], resamples: int, seed: int) -> Interval:
    """The statistic with the percentiles of its values on rows drawn again; one row gives no interval."""
    size, n = UNLABELLED + 1, len(true)
    value = statistic(confusion_matrix(true, said, size))
    if n == 1:
        return Interval(value, None, None, 1)
    draws = np.random.default_rng(seed).integers(0, n, (resamples, n))
    values = [statistic(confusion_matrix(true[rows], said[rows], size)) for rows in draws]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), n)
