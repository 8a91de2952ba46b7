"""AlpacaEval's win rate, its standard error and the discrete win rate, computed from preferences.

A preference lies between 1 (the baseline's output is better) and 2 (the model's output is better). A draw is 1.5, or 0
in old files. Source: `get_winrate` of alpaca_eval 0.6.6.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tapir_exp.evals.statistics import mean_and_error

DRAW = 1.5
OLD_DRAW = 0.0


@dataclass(frozen=True)
class WinRate:
    """Figures of the leaderboard; rates and errors in per cent.

    Attributes:
        win_rate: Mean share of a win.
        standard_error: Its standard error; None for a single preference.
        n_wins: Comparisons that the model wins.
        n_wins_base: Comparisons that the baseline wins.
        n_draws: Draws.
        n_total: All comparisons with a preference.
        discrete_win_rate: Share of wins, with draws as half a win.
        missing: Comparisons without a valid preference; no other figure includes them.
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
    """Return the win rate over the comparisons with a valid preference.

    Raises:
        ValueError: If there are none.
    """
    shares = [win_share(preference) for preference in preferences if is_preference(preference)]
    estimate = mean_and_error([100 * share for share in shares])
    return WinRate(
        win_rate=estimate.mean,
        standard_error=estimate.error,
        n_wins=sum(share > 0.5 for share in shares),
        n_wins_base=sum(share < 0.5 for share in shares),
        n_draws=sum(share == 0.5 for share in shares),
        n_total=len(shares),
        discrete_win_rate=100 * fmean((share > 0.5) + (share == 0.5) / 2 for share in shares),
        missing=len(preferences) - len(shares),
    )


def is_preference(value: float | None) -> bool:
    """Return whether a value is valid: from 1 to 2, or the old mark of a draw."""
    # NaN fails both comparisons.
    return value is not None and (1 <= value <= 2 or value == OLD_DRAW)


def win_share(preference: float | None) -> float:
    """Convert a valid preference to a share of a win, 0 to 1."""
    assert preference is not None
    return (DRAW if preference == OLD_DRAW else preference) - 1
