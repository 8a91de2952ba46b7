"""How the comparison prints its figures."""

import math
from collections.abc import Sequence

from tapir_exp.evals.statistics import Difference, Interval
from tapir_exp.report import charts
from tapir_exp.report.templates import FILTERS, NONE


def cell_accuracy(interval: Interval | None) -> str:
    """Per cent with half the width of its interval; only the mean where one seed gives no interval."""
    if interval is None:
        return NONE
    half = f" ± {(interval.high - interval.mean) * 100:.1f}" if interval.high is not None else ""
    return f"{interval.mean * 100:.1f}{half}"


def cell_mean(interval: Interval | None) -> str:
    """Per cent with half the width of its interval, which one seed cannot give and which is then a dash."""
    if interval is None:
        return NONE
    return f"{cell_accuracy(interval)}{f' ± {NONE}' if interval.high is None else ''}"


def cell_interval(interval: Interval | Difference | None) -> str:
    """The bounds of an interval in per cent or points."""
    if interval is None or interval.low is None or interval.high is None:
        return NONE
    return f"{_points(interval.low, interval)} to {_points(interval.high, interval)}"


def _points(value: float, interval: Interval | Difference) -> str:
    sign = "+" if isinstance(interval, Difference) else ""
    return f"{value * 100:{sign}.1f}".replace("-", "−")


def cell_difference(difference: Difference | None) -> str:
    """Points from the baseline."""
    return NONE if difference is None else _points(difference.mean, difference)


def cell_p(p: float | None) -> str:
    """A p-value to four decimals."""
    return NONE if p is None else f"{p:.4f}"


def cell_share(share: float) -> str:
    """A share in per cent, to one decimal."""
    return f"{share * 100:.1f}"


def cell_usd(usd: float | None) -> str:
    """Dollars, and in words where the price of any call is not known."""
    return "not known" if usd is None else FILTERS["usd"](usd)


def cell_tokens(tokens: Sequence[float]) -> str:
    """The mean in full; where jobs differ by more than a tenth of a per cent, the range beside it."""
    if not tokens:
        return NONE
    mean = f"{math.fsum(tokens) / len(tokens):,.0f}".replace(",", "\u202f")
    if is_equal(tokens):
        return mean
    return f"{mean} ({charts.compact(min(tokens))} to {charts.compact(max(tokens))})"


def is_equal(tokens: Sequence[float]) -> bool:
    """Whether token counts agree to a tenth of a per cent, as near as whole batches come."""
    return bool(tokens) and max(tokens) - min(tokens) <= 0.001 * max(tokens)


def cell_spread(tokens: Sequence[float]) -> str:
    """How far token counts lie apart, in per cent of the largest."""
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
"""How the templates print figures."""
