"""Win rate against values computed by hand and the published ones of two models."""

import json
import math

import pytest
from assets import asset

from tapir_exp.evals.win_rate import win_rate


def test_win_rate_matches_hand_computation() -> None:
    result = win_rate([1.0, 1.25, 1.5, 2.0])
    assert result.win_rate == pytest.approx(43.75)
    assert result.standard_error == pytest.approx(
        100 * math.sqrt(sum((x - 0.4375) ** 2 for x in (0, 0.25, 0.5, 1)) / 12)
    )
    assert (result.n_wins, result.n_wins_base, result.n_draws, result.n_total) == (1, 2, 1, 4)
    assert result.discrete_win_rate == pytest.approx(100 * 1.5 / 4)
    assert result.missing == 0


def test_win_rate_missing_preferences_are_dropped() -> None:
    assert win_rate([2.0, None, 1.0, None]).win_rate == 50.0
    result = win_rate([2.0, None, 7.0, float("nan")])
    assert (result.n_total, result.missing, result.win_rate) == (1, 3, 100.0)
    assert result.standard_error is None


def test_win_rate_zero_is_a_draw() -> None:
    assert win_rate([0.0, 1.5]) == win_rate([1.5, 1.5])


def test_win_rate_without_preferences_fails() -> None:
    with pytest.raises(ValueError, match="no values"):
        win_rate([None])


@pytest.mark.parametrize("model", ["vicuna-7b", "alpaca-7b"])
def test_win_rate_reproduces_published_figures(model: str) -> None:
    golden = json.loads(asset(f"alpacaeval/golden_{model}.json").read_text())
    result = win_rate(golden["preference"])
    for name in ("win_rate", "standard_error", "discrete_win_rate"):
        assert getattr(result, name) == pytest.approx(golden["published"][name], abs=1e-6)
    for name in ("n_wins", "n_wins_base", "n_draws", "n_total"):
        assert getattr(result, name) == golden["published"][name]
