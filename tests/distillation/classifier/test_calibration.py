"""A temperature makes a classifier as sure as it is right."""

import numpy as np
import pytest

from tapir_exp.distillation.classifier.calibration import fit_temperature, softmax

pytest.importorskip("scipy", reason="the extra `local` is not installed")


def drawn(rows: int, heat: float) -> "tuple[np.ndarray, np.ndarray]":
    """Logits that are `heat` times too large for the targets drawn from them."""
    random = np.random.default_rng(0)
    honest = random.normal(0, 2, (rows, 5))
    targets = np.array([random.choice(5, p=row) for row in softmax(honest, 1.0)])
    return (honest * heat).astype(np.float32), targets


def test_shares_are_a_softmax_that_survives_large_logits() -> None:
    found = softmax(np.array([[1000.0, 1000.0, -1000.0], [0.0, np.log(3.0), -np.inf]]), 1.0)
    assert found == pytest.approx(np.array([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]]))
    assert softmax(np.array([[0.0, 2 * np.log(3.0)]]), 2.0)[0, 1] == pytest.approx(0.75)


@pytest.mark.parametrize("heat", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_what_is_too_sure_or_not_sure_enough(heat: float) -> None:
    logits, targets = drawn(4000, heat)
    assert fit_temperature(logits, targets) == pytest.approx(heat, rel=0.08)


def test_a_few_rows_that_are_all_right_do_not_make_it_certain() -> None:
    logits = 5 * np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    sure = softmax(logits, fit_temperature(logits, logits.argmax(1))).max(1)
    assert 0.8 < sure.mean() < 0.95


def test_a_type_without_a_logit_stays_impossible_and_no_rows_give_no_temperature() -> None:
    logits = np.array([[2.0, 0.0, -np.inf], [0.0, 1.0, -np.inf], [1.0, 0.5, -np.inf]], dtype=np.float32)
    assert np.isfinite(fit_temperature(logits, np.array([0, 1, 0])))
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, dtype=np.int64)) == 1.0
