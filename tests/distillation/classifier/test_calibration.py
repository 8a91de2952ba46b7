"""The fitted temperature makes confidence match accuracy."""

import numpy as np
import pytest

from tapir_exp.distillation.classifier.calibration import fit_temperature, softmax

pytest.importorskip("scipy", reason="the extra `local` is not installed")


def draw_scaled_logits(rows: int, scale: float) -> "tuple[np.ndarray, np.ndarray]":
    """Return logits `scale` times too large for the targets drawn from them, and the targets."""
    random = np.random.default_rng(0)
    true_logits = random.normal(0, 2, (rows, 5))
    targets = np.array([random.choice(5, p=row) for row in softmax(true_logits, 1.0)])
    return (true_logits * scale).astype(np.float32), targets


def test_softmax_is_stable_for_large_logits() -> None:
    shares = softmax(np.array([[1000.0, 1000.0, -1000.0], [0.0, np.log(3.0), -np.inf]]), 1.0)
    assert shares == pytest.approx(np.array([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]]))
    assert softmax(np.array([[0.0, 2 * np.log(3.0)]]), 2.0)[0, 1] == pytest.approx(0.75)


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_fit_temperature_recovers_the_scale_of_the_logits(scale: float) -> None:
    logits, targets = draw_scaled_logits(4000, scale)
    assert fit_temperature(logits, targets) == pytest.approx(scale, rel=0.08)


def test_fit_temperature_of_few_correct_rows_is_not_certain() -> None:
    logits = 5 * np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    confidence = softmax(logits, fit_temperature(logits, logits.argmax(1))).max(1)
    assert 0.8 < confidence.mean() < 0.95


def test_fit_temperature_handles_missing_logits_and_no_rows() -> None:
    logits = np.array([[2.0, 0.0, -np.inf], [0.0, 1.0, -np.inf], [1.0, 0.5, -np.inf]], dtype=np.float32)
    assert np.isfinite(fit_temperature(logits, np.array([0, 1, 0])))
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, dtype=np.int64)) == 1.0
