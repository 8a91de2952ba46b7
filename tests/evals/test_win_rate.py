"""The win rate by hand, and that of two models as published."""

import json
import math

import pytest
from assets import asset

from tapir_exp.evals.win_rate import win_rate


def test_figures_by_hand() -> None:
    found = win_rate([1.0, 1.25, 1.5, 2.0])
    assert found.win_rate == pytest.approx(43.75)
    assert found.standard_error == pytest.approx(
        100 * math.sqrt(sum((x - 0.4375) ** 2 for x in (0, 0.25, 0.5, 1)) / 12)
    )
    assert (found.n_wins, found.n_wins_base, found.n_draws, found.n_total) == (1, 2, 1, 4)
    assert found.discrete_win_rate == pytest.approx(100 * 1.5 / 4)
    assert found.missing == 0


def test_missing_preferences_are_dropped_from_n_and_counted() -> None:
    assert win_rate([2.0, None, 1.0, None]).win_rate == 50.0
    found = win_rate([2.0, None, 7.0, float("nan")])
    assert (found.n_total, found.missing, found.win_rate) == (1, 3, 100.0)
    assert found.standard_error is None


def test_zero_is_the_old_mark_of_a_draw() -> None:
    assert win_rate([0.0, 1.5]) == win_rate([1.5, 1.5])


def test_no_preference_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        win_rate([None])


@pytest.mark.parametrize("model", ["vicuna-7b", "alpaca-7b"])
def test_published_win_rates_come_out(model: str) -> None:
    golden = json.loads(asset(f"alpacaeval/golden_{model}.json").read_text())
    found = win_rate(golden["preference"])
    for name in ("win_rate", "standard_error", "discrete_win_rate"):
        assert getattr(found, name) == pytest.approx(golden["published"][name], abs=1e-6)
    for name in ("n_wins", "n_wins_base", "n_draws", "n_total"):
        assert getattr(found, name) == golden["published"][name]
