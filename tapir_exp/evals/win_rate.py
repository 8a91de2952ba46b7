"""AlpacaEval's figures from preferences: the win rate, its error, and the discrete win rate. Pure.

A preference lies between 1 (the baseline's output is better) and 2 (the model's is); 1.5 is a draw, and so is 0 in
old files. Source: `get_winrate` of alpaca_eval 0.6.6.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tapir_exp.evals.statistics import mean_and_error

DRAW = 1.5
OLD_DRAW = 0.0


@dataclass(frozen=True)
class WinRate:
    """What the leaderboard prints, in per cent; the error is None for a single preference.

    missing: comparisons without a preference from 1 to 2; they are in no figure.
    """

    win_rate: float
    standard_error: float | None
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    discrete_win_rate: float
    missing: int


def win_rate(preferences: Sequence[float | None]) -> WinRate:
    """The mean of preference - 1 over the comparisons that have one. Raises ValueError where none has."""
    known = [win_share(preference) for preference in preferences if is_preference(preference)]
    estimate = mean_and_error([100 * wins for wins in known])
    return WinRate(
        win_rate=estimate.mean,
        standard_error=estimate.error,
        n_wins=sum(wins > 0.5 for wins in known),
        n_wins_base=sum(wins < 0.5 for wins in known),
        n_draws=sum(wins == 0.5 for wins in known),
        n_total=len(known),
        discrete_win_rate=100 * fmean((wins > 0.5) + (wins == 0.5) / 2 for wins in known),
        missing=len(preferences) - len(known),
    )


def is_preference(value: float | None) -> bool:
    """Whether a value counts: from 1 to 2, or the old mark of a draw."""
    return value is not None and (1 <= value <= 2 or value == OLD_DRAW)


def win_share(preference: float | None) -> float:
    """A preference as a share of a win, 0 to 1."""
    assert preference is not None
    return (DRAW if preference == OLD_DRAW else preference) - 1
