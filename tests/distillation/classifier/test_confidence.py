"""A pool on which the classifier is much less confident than on its validation rows gives a warning."""

import numpy as np
import pytest

from tapir_exp.core.records import Label
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.classifier.confidence import PoolConfidence, Validation, pool_confidence, validate

VALIDATION = Validation(rows=200, accuracy=0.7, mean_confidence=0.66)


def label(confidence: float | None, task: TaskType | None = TaskType.MATH) -> Label:
    return Label(id="a", task=task, raw="Math" if task is None else "", confidence=confidence)


def test_pool_confidence_counts_abstentions_and_adds_up() -> None:
    sure = pool_confidence([label(0.9), label(0.7)])
    unsure = pool_confidence([label(0.2, None), label(None), label(None, None)])
    assert (unsure.rows, unsure.mean_confidence, unsure.abstained) == (1, 0.2, 1)
    total = sure.add(unsure)
    assert (total.rows, total.mean_confidence, total.abstained) == (3, pytest.approx(0.6), 1)
    assert pool_confidence([]) == PoolConfidence()


@pytest.mark.parametrize(
    ("rows", "mean", "warned"), [(100, 0.5, True), (100, 0.6, False), (100, 0.9, False), (5, 0.1, False)]
)
def test_warning_compares_the_pool_with_the_validation(rows: int, mean: float, warned: bool) -> None:
    warning = PoolConfidence(rows, mean, rows // 2).warning(VALIDATION)
    assert (warning is not None) == warned
    assert PoolConfidence(rows, mean, 0).warning(None) is None


def test_warning_states_both_confidences_and_the_remedy() -> None:
    warning = PoolConfidence(100, 0.31, 40).warning(VALIDATION) or ""
    for part in ("out of its depth", "100 rows", "0.31", "0.66", "70%", "40% of the rows got no type", "train"):
        assert part in warning


def test_validate_measures_held_out_rows() -> None:
    logits = np.log(np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]], dtype=np.float32))
    assert validate(logits, np.array([0, 1, 1]), 1.0) == Validation(rows=3, accuracy=0.6667, mean_confidence=0.7667)
    assert validate(logits[:0], np.array([], dtype=np.int64), 1.0) is None


@pytest.mark.parametrize(
    ("given", "guess"),
    [
        (label(0.9), TaskType.MATH),
        (label(0.2, None), TaskType.MATH),
        (Label(id="a", task=None, raw="Math?", failure="unreadable"), None),
    ],
)
def test_best_guess_is_the_type_that_an_abstention_leans_to(given: Label, guess: TaskType | None) -> None:
    assert given.best_guess is guess
