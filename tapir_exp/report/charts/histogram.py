"""Histograms of gaps."""

import math
from collections.abc import Sequence

from tapir_exp.report.charts.svg import (
    PANEL,
    Box,
    Scale,
    axis_ticks,
    format_number,
    percent,
    svg_document,
    svg_line,
    svg_rect,
    svg_text,
)

BIN = 0.5
"""Width of a bin, in judge points."""


def histograms(panels: Sequence[tuple[str, Sequence[float]]], delta: float) -> list[str]:
    """Draw one histogram of gaps per panel, on common axes, with the threshold and the share above it.

    Bins are closed at their upper edge, and one edge is at delta, so that gap > delta lies to its right.
    """
    all_gaps = [gap for _, gaps in panels for gap in gaps]
    if not all_gaps:
        return []
    first = min(-4, math.floor((min(all_gaps) - delta) / BIN))
    last = max(6, math.ceil((max(all_gaps) - delta) / BIN))
    counted = [_count_bins(gaps, delta, first, last) for _, gaps in panels]
    tallest = max(share for shares in counted for share in shares)
    return [
        _histogram(title, gaps, shares, delta, first, tallest)
        for (title, gaps), shares in zip(panels, counted, strict=True)
    ]


def _count_bins(gaps: Sequence[float], delta: float, first: int, last: int) -> list[float]:
    """Return the share of gaps in each bin (delta + i BIN, delta + (i + 1) BIN], i from first to last - 1."""
    counts = [0] * (last - first)
    for gap in gaps:
        # Rounding keeps a gap on an edge in its bin, despite floating-point division.
        index = math.ceil(round((gap - delta) / BIN, 9)) - 1
        counts[max(0, index - first)] += 1
    return [count / max(1, len(gaps)) for count in counts]


def _histogram(
    title: str, gaps: Sequence[float], shares: Sequence[float], delta: float, first: int, tallest: float
) -> str:
    box = Box(PANEL, 190, left=12, right=12, top=50, bottom=36)
    x = Scale(delta + first * BIN, delta + (first + len(shares)) * BIN, *box.x)
    y = Scale(0, tallest, *box.y)
    above = sum(gap > delta for gap in gaps) / max(1, len(gaps))
    bars = [
        _bar(x(delta + (first + i) * BIN), x(delta + (first + i + 1) * BIN), y(0), y(share), first + i >= 0)
        for i, share in enumerate(shares)
        if share
    ]
    ticks = [svg_text(x(t), box.y[0] + 15, format_number(t), "mid") for t in axis_ticks(x.low, x.high, 7)]
    parts = [
        svg_text(box.left, 14, title, "head"),
        *bars,
        svg_line(box.x[0], box.y[0], box.x[1], box.y[0], "axis"),
        *ticks,
        svg_text(box.width / 2, box.height - 3, "gap = teacher − student, points", "mid faint"),
        svg_line(x(delta), 28, x(delta), box.y[0], "mark"),
        svg_text(x(delta) - 5, 38, f"δ = {format_number(delta)}", "end"),
        svg_text(x(delta) + 5, 38, f"{percent(above)} hard", "t-warm strong"),
    ]
    description = f"{len(gaps)} scored rows; {percent(above)} have a gap above {format_number(delta)} points."
    return svg_document(box, f"Gap histogram: {title}", description, parts)


def _bar(left: float, right: float, bottom: float, top: float, hard: bool) -> str:
    return svg_rect(left + 0.6, top, right - left - 1.2, bottom - top, "f-warm" if hard else "f-quiet")
