"""Format the values of the comparison for its templates."""

import math
from collections.abc import Sequence

from tapir_exp.evals.statistics import Difference, Interval
from tapir_exp.report import charts
from tapir_exp.report.templates import FILTERS, NONE


def cell_accuracy(interval: Interval | None) -> str:
    """Return the mean in per cent ± half the width of its interval; the mean alone if one seed gives no interval."""
    if interval is None:
        return NONE
    if interval.low is None or interval.high is None:
        return f"{interval.mean * 100:.1f}"
    # A t interval is symmetric, unless it is cut at 0 or 1.
    half = f" ± {max(interval.high - interval.mean, interval.mean - interval.low) * 100:.1f}"
    return f"{interval.mean * 100:.1f}{half}"


def cell_mean(interval: Interval | None) -> str:
    """Return the same as `cell_accuracy`, with a dash for the half width that one seed cannot give."""
    if interval is None:
        return NONE
    return f"{cell_accuracy(interval)}{f' ± {NONE}' if interval.high is None else ''}"


def cell_interval(interval: Interval | Difference | None) -> str:
    """Return the bounds of an interval, in per cent or percentage points."""
    if interval is None or interval.low is None or interval.high is None:
        return NONE
    return f"{_points(interval.low, interval)} to {_points(interval.high, interval)}"


def _points(value: float, interval: Interval | Difference) -> str:
    """Return a share times 100; differences have a sign, and a minus is the typographic one."""
    sign = "+" if isinstance(interval, Difference) else ""
    return f"{value * 100:{sign}.1f}".replace("-", "−")


def cell_difference(difference: Difference | None) -> str:
    """Return the difference from the baseline in percentage points."""
    return NONE if difference is None else _points(difference.mean, difference)


def cell_p(p: float | None) -> str:
    """Return a p-value with four decimals."""
    return NONE if p is None else f"{p:.4f}"


def cell_share(share: float) -> str:
    """Return a share in per cent with one decimal."""
    return f"{share * 100:.1f}"


def cell_usd(usd: float | None) -> str:
    """Return dollars; "unknown" if the price of any call is unknown."""
    return "unknown" if usd is None else FILTERS["usd"](usd)


def cell_tokens(tokens: Sequence[float]) -> str:
    """Return the mean token count; if jobs differ by more than 0.1 %, with the range in brackets."""
    if not tokens:
        return NONE
    mean = _grouped(math.fsum(tokens) / len(tokens))
    if is_equal(tokens):
        return mean
    low, high = charts.compact(min(tokens)), charts.compact(max(tokens))
    if low == high:  # the difference is smaller than the rounding: show full counts
        low, high = _grouped(min(tokens)), _grouped(max(tokens))
    return f"{mean} ({low} to {high})"


def _grouped(count: float) -> str:
    return f"{count:,.0f}".replace(",", "\u202f")


def is_equal(tokens: Sequence[float]) -> bool:
    """Return True if token counts agree to 0.1 %; training in whole batches cannot match them more closely."""
    return bool(tokens) and max(tokens) - min(tokens) <= 0.001 * max(tokens)


def cell_spread(tokens: Sequence[float]) -> str:
    """Return the range of token counts in per cent of the largest."""
    return f"{(max(tokens) - min(tokens)) / max(tokens) * 100:.2f} %" if tokens and max(tokens) else NONE


CELLS = {
    "accuracy": cell_accuracy,
    "mean": cell_mean,
    "interval": cell_interval,
    "difference": cell_difference,
    "p": cell_p,
    "share": cell_share,
    "usd": cell_usd,
    "tokens": cell_tokens,
    "equal": is_equal,
    "spread": cell_spread,
}
"""Formatters of the templates, as `cell.NAME`."""
