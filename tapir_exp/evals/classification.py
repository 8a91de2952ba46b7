"""Figures of a task classifier: accuracy, macro-F1, agreement and calibration.

All figures come from a confusion matrix. It has a line for each true type and a column for each predicted type, in the
order of the taxonomy. The last column counts unlabelled rows, which are wrong. Intervals are percentile bootstraps over
rows. A rare type is absent from some resamples, so the interval of a macro-F1 with rare types is biased upwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tapir_exp.core.task_types import TaskType
from tapir_exp.evals.statistics import LEVEL, Interval

TASKS = tuple(TaskType)
UNLABELLED = len(TASKS)
"""Index of the column of unlabelled rows."""
BINS = 10
"""Number of bins of the reliability diagram, of equal width."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class TaskFigures:
    """Figures of one type.

    Attributes:
        task: The type.
        rows: Rows that are of the type.
        named: Rows that are predicted to be.
        precision: Share of the predicted rows that are of the type; None without such rows.
        recall: Share of the rows of the type that are predicted; None without such rows.
        f1: Harmonic mean of precision and recall; None without rows of either kind.
    """

    task: TaskType
    rows: int
    named: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Bin:
    """Rows with a confidence in (low, high].

    Attributes:
        low: Lower bound, exclusive.
        high: Upper bound, inclusive.
        rows: Number of rows.
        confidence: Mean confidence of the classifier.
        accuracy: Share of correct rows.
    """

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class ClassificationFigures:
    """Comparison of labels with the truth, or with the labels of another classifier.

    Attributes:
        rows: Number of rows.
        unlabelled: Rows without a predicted type.
        accuracy: Share of correct rows.
        labelled_accuracy: Share of correct rows among the labelled ones; None without any.
        macro_f1: Mean F1 over the types that occur in the truth.
        kappa: Cohen's kappa, the agreement beyond chance.
        calibration_error: Expected calibration error (ECE), 0 to 1; None if the classifier has no confidences.
        reliability: Bins of the reliability diagram.
        by_task: Figures of the types that occur in the truth.
        confusion: The confusion matrix, shape (types, types + 1).
    """

    rows: int
    unlabelled: int
    accuracy: Interval
    labelled_accuracy: float | None
    macro_f1: Interval
    kappa: Interval
    calibration_error: float | None
    reliability: tuple[Bin, ...]
    by_task: tuple[TaskFigures, ...]
    confusion: tuple[tuple[int, ...], ...]


def measure(
    truth: Sequence[TaskType],
    predicted: Sequence[TaskType | None],
    confidences: Sequence[float | None],
    *,
    resamples: int,
    seed: int,
) -> ClassificationFigures:
    """Compare labels with the truth, row by row.

    Args:
        truth: The true types.
        predicted: The predicted types; None for unlabelled rows.
        confidences: Confidences of the predictions, 0 to 1, or None.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If there are no rows.
    """
    if not truth:
        raise ValueError("cannot measure a classifier on no rows, expected at least one labelled row")
    true, pred = task_indices(truth), task_indices(predicted)
    counts = confusion_matrix(true, pred, UNLABELLED + 1)
    bins = reliability(true == pred, confidences)
    return ClassificationFigures(
        rows=len(true),
        unlabelled=int((pred == UNLABELLED).sum()),
        accuracy=_bootstrap(true, pred, accuracy, resamples, seed),
        labelled_accuracy=_labelled_accuracy(true, pred),
        macro_f1=_bootstrap(true, pred, macro_f1, resamples, seed),
        kappa=_bootstrap(true, pred, kappa, resamples, seed),
        calibration_error=calibration_error(bins),
        reliability=bins,
        by_task=tuple(_task_figures(counts, index) for index in range(UNLABELLED) if counts[index].any()),
        confusion=tuple(tuple(int(count) for count in row) for row in counts[:UNLABELLED]),
    )


def task_indices(tasks: Sequence[TaskType | None]) -> Counts:
    """Return the column of each type in the confusion matrix."""
    return np.array([UNLABELLED if task is None else TASKS.index(task) for task in tasks], dtype=np.int64)


def confusion_matrix(true: Counts, pred: Counts, size: int) -> Counts:
    """Count the rows of each pair of true and predicted index; the result has the shape (size, size)."""
    # Each pair has one code, true * size + pred, so a single bincount fills the matrix.
    counts: Counts = np.bincount(true * size + pred, minlength=size * size).reshape(size, size)
    return counts


def accuracy(counts: Counts) -> float:
    """Return the share of rows on the diagonal."""
    return float(np.trace(counts) / counts.sum())


def _labelled_accuracy(true: Counts, pred: Counts) -> float | None:
    labelled = pred != UNLABELLED
    return float((true == pred)[labelled].mean()) if labelled.any() else None


def macro_f1(counts: Counts) -> float:
    """Return the mean of F1 = 2 hits / (true + predicted rows) over the types that occur in the truth."""
    rows, predicted, hits = counts.sum(1), counts.sum(0), np.diag(counts)
    # A type without true rows has no recall, so it is not averaged.
    present = rows > 0
    return float((2 * hits[present] / (rows + predicted)[present]).mean())


def kappa(counts: Counts) -> float:
    """Return Cohen's kappa (1960): (observed - expected) / (1 - expected) agreement; 1 if the expected one is 1."""
    total = counts.sum()
    expected = float((counts.sum(1) * counts.sum(0)).sum() / total**2)
    return 1.0 if expected == 1 else (accuracy(counts) - expected) / (1 - expected)


def reliability(correct: NDArray[np.bool_], confidences: Sequence[float | None]) -> tuple[Bin, ...]:
    """Return the bins that hold rows. Rows without a confidence are in none.

    Args:
        correct: Whether each row is correct, shape (rows,).
        confidences: Confidence of each row, 0 to 1, or None.
    """
    known = np.array([index for index, value in enumerate(confidences) if value is not None], dtype=np.int64)
    if not len(known):
        return ()
    confidence, hits = np.array([confidences[index] for index in known], dtype=np.float64), correct[known]
    # Bins are closed above: 0.9 belongs to (0.8, 0.9], and the clip puts 0 into the first bin.
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return tuple(
        Bin(
            low=b / BINS,
            high=(b + 1) / BINS,
            rows=int((bins == b).sum()),
            confidence=float(confidence[bins == b].mean()),
            accuracy=float(hits[bins == b].mean()),
        )
        for b in range(BINS)
        if (bins == b).any()
    )


def calibration_error(bins: Sequence[Bin]) -> float | None:
    """Return the ECE (Naeini et al., AAAI 2015): |confidence - accuracy|, averaged over the rows; None without rows."""
    rows = sum(b.rows for b in bins)
    return sum(b.rows * abs(b.confidence - b.accuracy) for b in bins) / rows if rows else None


def _task_figures(counts: Counts, index: int) -> TaskFigures:
    rows, predicted, hits = int(counts[index].sum()), int(counts[:, index].sum()), int(counts[index, index])
    return TaskFigures(
        TASKS[index],
        rows,
        predicted,
        precision=hits / predicted if predicted else None,
        recall=hits / rows if rows else None,
        f1=2 * hits / (rows + predicted) if rows + predicted else None,
    )


def _bootstrap(true: Counts, pred: Counts, statistic: Callable[[Counts], float], resamples: int, seed: int) -> Interval:
    """Return the statistic with percentiles over resampled rows; a single row has no interval."""
    size, n = UNLABELLED + 1, len(true)
    value = statistic(confusion_matrix(true, pred, size))
    if n == 1:
        return Interval(value, None, None, 1)
    # Each line of `draws` holds the row indices of one resample, shape (resamples, n).
    draws = np.random.default_rng(seed).integers(0, n, (resamples, n))
    values = [statistic(confusion_matrix(true[rows], pred[rows], size)) for rows in draws]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), n)
