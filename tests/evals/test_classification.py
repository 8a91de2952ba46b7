"""The figures of a classifier, by hand on a small matrix and against scikit-learn on a large one."""

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
NAMED = [MATH, MATH, LAW, LAW, None, MATH]
SURE = [0.95, 0.85, 0.55, 0.95, None, 0.35]


def test_a_small_comparison_by_hand() -> None:
    figures = measure(TRUTH, NAMED, SURE, resamples=200, seed=0)
    assert (figures.rows, figures.unlabelled) == (6, 1)
    assert figures.accuracy.mean == pytest.approx(3 / 6)
    assert figures.macro_f1.mean == pytest.approx((2 * 2 / 6 + 2 * 1 / 4 + 0) / 3)  # Math, Law, Art
    expected = (3 * 3 + 2 * 2 + 1 * 0) / 36  # rows of a type times rows said to be
    assert figures.kappa.mean == pytest.approx((0.5 - expected) / (1 - expected))
    law = next(row for row in figures.by_task if row.task is LAW)
    assert (law.rows, law.named, law.precision, law.recall) == (2, 2, 0.5, 0.5)
    art = next(row for row in figures.by_task if row.task is ART)
    assert (art.named, art.precision, art.recall, art.f1) == (0, None, 0.0, 0.0)


def test_an_unlabelled_row_is_wrong_and_never_others() -> None:
    figures = measure([TaskType.OTHERS], [None], [None], resamples=10, seed=0)
    assert (figures.accuracy.mean, figures.unlabelled, figures.accuracy.low) == (0.0, 1, None)
    assert figures.confusion[list(TaskType).index(TaskType.OTHERS)][-1] == 1


def test_the_bins_are_closed_above_and_their_error_is_weighed_by_rows() -> None:
    bins = reliability(np.array([True, False, True, True]), [0.9, 0.9, 0.05, 0.91])
    assert [(b.low, b.rows) for b in bins] == [(0.0, 1), (0.8, 2), (0.9, 1)]
    assert calibration_error(bins) == pytest.approx((0.95 + 2 * 0.4 + 0.09) / 4)
    assert calibration_error(reliability(np.array([True]), [None])) is None


def test_the_figures_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="the extra `local` is not installed")
    random = np.random.default_rng(0)
    true = random.integers(0, 7, 500)
    said = np.where(random.random(500) < 0.6, true, random.integers(0, 9, 500))
    counts = confusion_matrix(true, said, 10)
    assert accuracy(counts) == pytest.approx(metrics.accuracy_score(true, said))
    assert kappa(counts) == pytest.approx(metrics.cohen_kappa_score(true, said))
    assert macro_f1(counts) == pytest.approx(metrics.f1_score(true, said, average="macro", labels=range(7)))


def test_kappa_is_one_where_all_agree_and_zero_by_chance() -> None:
    assert kappa(np.diag([3, 4])) == 1
    assert kappa(np.diag([5])) == 1
    assert kappa(np.array([[9, 9], [9, 9]])) == pytest.approx(0)


def test_the_interval_covers_the_true_accuracy_about_as_often_as_it_says() -> None:
    random, covered = np.random.default_rng(1), 0
    for draw in range(60):
        right = random.random(80) < 0.7
        named = [MATH if hit else LAW for hit in right]
        interval = measure([MATH] * 80, named, [None] * 80, resamples=200, seed=draw).accuracy
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= 0.7 <= interval.high
    assert 50 <= covered <= 60


def test_the_same_seed_gives_the_same_interval() -> None:
    assert measure(TRUTH, NAMED, SURE, resamples=50, seed=3) == measure(TRUTH, NAMED, SURE, resamples=50, seed=3)
    with pytest.raises(ValueError, match="no rows"):
        measure([], [], [], resamples=5, seed=0)
