"""Figures of a classifier against values computed by hand and against scikit-learn."""

import numpy as np
import pytest

from tapir_exp.core.task_types import TaskType
from tapir_exp.evals.classification import (
    accuracy,
    calibration_error,
    confusion_matrix,
    kappa,
    macro_f1,
    measure,
    reliability,
)

MATH, LAW, ART = TaskType.MATH, TaskType.LAW, TaskType.ART
TRUTH = [MATH, MATH, MATH, LAW, LAW, ART]
PREDICTED = [MATH, MATH, LAW, LAW, None, MATH]
CONFIDENCES = [0.95, 0.85, 0.55, 0.95, None, 0.35]


def test_measure_matches_hand_computation() -> None:
    figures = measure(TRUTH, PREDICTED, CONFIDENCES, resamples=200, seed=0)
    assert (figures.rows, figures.unlabelled) == (6, 1)
    assert figures.accuracy.mean == pytest.approx(3 / 6)
    assert figures.macro_f1.mean == pytest.approx((2 * 2 / 6 + 2 * 1 / 4 + 0) / 3)  # Math, Law, Art
    expected = (3 * 3 + 2 * 2 + 1 * 0) / 36  # true rows times predicted rows of each type
    assert figures.kappa.mean == pytest.approx((0.5 - expected) / (1 - expected))
    law = next(row for row in figures.by_task if row.task is LAW)
    assert (law.rows, law.named, law.precision, law.recall) == (2, 2, 0.5, 0.5)
    art = next(row for row in figures.by_task if row.task is ART)
    assert (art.named, art.precision, art.recall, art.f1) == (0, None, 0.0, 0.0)


def test_measure_unlabelled_row_is_wrong_and_not_others() -> None:
    figures = measure([TaskType.OTHERS], [None], [None], resamples=10, seed=0)
    assert (figures.accuracy.mean, figures.unlabelled, figures.accuracy.low) == (0.0, 1, None)
    assert figures.confusion[list(TaskType).index(TaskType.OTHERS)][-1] == 1


def test_reliability_bins_are_closed_above() -> None:
    bins = reliability(np.array([True, False, True, True]), [0.9, 0.9, 0.05, 0.91])
    assert [(b.low, b.rows) for b in bins] == [(0.0, 1), (0.8, 2), (0.9, 1)]
    assert calibration_error(bins) == pytest.approx((0.95 + 2 * 0.4 + 0.09) / 4)
    assert calibration_error(reliability(np.array([True]), [None])) is None


def test_figures_match_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="the extra `local` is not installed")
    random = np.random.default_rng(0)
    true = random.integers(0, 7, 500)
    pred = np.where(random.random(500) < 0.6, true, random.integers(0, 9, 500))
    counts = confusion_matrix(true, pred, 10)
    assert accuracy(counts) == pytest.approx(metrics.accuracy_score(true, pred))
    assert kappa(counts) == pytest.approx(metrics.cohen_kappa_score(true, pred))
    assert macro_f1(counts) == pytest.approx(metrics.f1_score(true, pred, average="macro", labels=range(7)))


def test_kappa_is_one_for_agreement_and_zero_by_chance() -> None:
    assert kappa(np.diag([3, 4])) == 1
    assert kappa(np.diag([5])) == 1
    assert kappa(np.array([[9, 9], [9, 9]])) == pytest.approx(0)


def test_measure_interval_has_about_nominal_coverage() -> None:
    """A 95 % interval covers the true accuracy in 57 of 60 samples on average."""
    random, covered = np.random.default_rng(1), 0
    for draw in range(60):
        hits = random.random(80) < 0.7
        predicted = [MATH if hit else LAW for hit in hits]
        interval = measure([MATH] * 80, predicted, [None] * 80, resamples=200, seed=draw).accuracy
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= 0.7 <= interval.high
    assert 50 <= covered <= 60


def test_measure_same_seed_gives_the_same_interval() -> None:
    assert measure(TRUTH, PREDICTED, CONFIDENCES, resamples=50, seed=3) == measure(
        TRUTH, PREDICTED, CONFIDENCES, resamples=50, seed=3
    )


def test_measure_no_rows_fails() -> None:
    with pytest.raises(ValueError, match="no rows"):
        measure([], [], [], resamples=5, seed=0)
