"""Power of comparisons against Cohen's tables."""

import math

import pytest

from tapir_exp.evals.power import detectable_difference, error_of_difference, pairs_needed


def test_detectable_difference_matches_cohen() -> None:
    """Cohen 1988, table 2.4.1 (two-tailed α = .05, power .80): d = .20 needs 393 in each group, d = .50 needs 64.

    The normal approximation differs from his t by one or two rows.
    """
    error = error_of_difference(1 / math.sqrt(393), 1 / math.sqrt(393))
    assert detectable_difference(error) == pytest.approx(0.2, abs=1e-3)
    assert pairs_needed(0.5, math.sqrt(2)) == pytest.approx(64, abs=2)
    assert detectable_difference(1.0) == pytest.approx(1.959964 + 0.841621, abs=1e-5)


def test_detectable_difference_on_805_instructions() -> None:
    """The paper reports 7.80 and 7.70 with standard errors of 0.83."""
    error = error_of_difference(0.83, 0.83)
    assert error == pytest.approx(1.1738, abs=1e-4)
    assert detectable_difference(error) == pytest.approx(3.29, abs=0.01)
    assert pairs_needed(0.1, 0.83 * math.sqrt(2 * 805)) == pytest.approx(870_543, abs=10)
    assert error_of_difference(0.83, 0.83, correlation=1.0) == 0.0


def test_pairs_needed_for_no_difference_fails() -> None:
    with pytest.raises(ValueError, match="difference of 0"):
        pairs_needed(0.0, 1.0)
