"""Histograms of gaps."""

import math
from collections.abc import Sequence

from tapir_exp.report.charts.svg import (
    PANEL,
    Box,
    Scale,
    axis_ticks,
    compact,
    format_number,
    percent,
    svg_document,
    svg_line,
    svg_rect,
    svg_text,
)

BIN = 0.5
"""Width of a bin, in judge points."""
GAP_LABEL = "gap = teacher − student, points"
BASE = 0.6
"""Rows at the foot of the axis, so that a bar of one row can be seen."""


def histograms(
    panels: Sequence[tuple[str, Sequence[float]]], delta: float, label: str = GAP_LABEL, above: str = "hard"
) -> list[str]:
    """Draw one histogram of gaps per panel, on common axes, with the threshold and the share above it.

    Rows are counted on a logarithmic axis: most gaps are near 0, and the few large ones matter. Bins are closed at
    their upper edge, and one edge is at delta, so that gap > delta lies to its right.

    Args:
        panels: Title and gaps of each panel, in points.
        delta: The threshold.
        label: What the values are.
        above: Word for the values above the threshold.
    """
    all_gaps = [gap for _, gaps in panels for gap in gaps]
    if not all_gaps:
        return []
    first = min(-4, math.floor((min(all_gaps) - delta) / BIN))
    last = max(6, math.ceil((max(all_gaps) - delta) / BIN))
    counted = [_count_bins(gaps, delta, first, last) for _, gaps in panels]
    tallest = max(count for counts in counted for count in counts)
    return [
        _histogram(title, gaps, counts, delta, first, tallest, label, above)
        for (title, gaps), counts in zip(panels, counted, strict=True)
    ]


def gap_bins(gaps: Sequence[float], delta: float) -> list[tuple[float, float, int]]:
    """Return lower edge, upper edge and rows of each bin that has rows, in the bins of `histograms`."""
    if not gaps:
        return []
    first = math.floor((min(gaps) - delta) / BIN)
    last = math.ceil((max(gaps) - delta) / BIN) + 1
    counts = _count_bins(gaps, delta, first, last)
    edges = [(delta + (first + i) * BIN, delta + (first + i + 1) * BIN) for i in range(len(counts))]
    return [(low, high, count) for (low, high), count in zip(edges, counts, strict=True) if count]


def _count_bins(gaps: Sequence[float], delta: float, first: int, last: int) -> list[int]:
    """Return the rows in each bin (delta + i BIN, delta + (i + 1) BIN], i from first to last - 1."""
    counts = [0] * (last - first)
    for gap in gaps:
        # Rounding keeps a gap on an edge in its bin, despite floating-point division.
        index = math.ceil(round((gap - delta) / BIN, 9)) - 1
        counts[max(0, index - first)] += 1
    return counts


def _histogram(
    title: str,
    gaps: Sequence[float],
    counts: Sequence[int],
    delta: float,
    first: int,
    tallest: int,
    label: str,
    above: str,
) -> str:
    box = Box(PANEL, 200, left=34, right=12, top=50, bottom=36)
    x = Scale(delta + first * BIN, delta + (first + len(counts)) * BIN, *box.x)
    y = Scale(BASE, max(10, tallest) * 1.1, *box.y, log=True)
    share = sum(gap > delta for gap in gaps) / max(1, len(gaps))
    bars = [_bar(x, y, delta, first + i, count, len(gaps)) for i, count in enumerate(counts) if count]
    ticks = [svg_text(x(t), box.y[0] + 15, format_number(t), "mid") for t in axis_ticks(x.low, x.high, 7)]
    parts = [
        svg_text(2, 14, title, "head"),
        *_count_axis(box, y),
        *bars,
        svg_line(box.x[0], box.y[0], box.x[1], box.y[0], "axis"),
        *ticks,
        svg_text(sum(box.x) / 2, box.height - 3, label, "mid faint"),
        svg_line(x(delta), 28, x(delta), box.y[0], "mark"),
        svg_text(x(delta) - 5, 38, f"δ = {format_number(delta)}" if delta else "no change", "end"),
        svg_text(x(delta) + 5, 38, f"{percent(share)} {above}", "t-warm strong"),
    ]
    description = f"{len(gaps)} scored rows; {percent(share)} have a gap above {format_number(delta)} points."
    return svg_document(box, f"Gap histogram: {title}", description, parts)


def _count_axis(box: Box, y: Scale) -> list[str]:
    powers = [10**power for power in range(math.floor(math.log10(y.high)) + 1)]
    lines = [svg_line(box.x[0], y(count), box.x[1], y(count), "grid") for count in powers]
    return [*lines, *(svg_text(box.left - 5, y(count) + 4, compact(count), "end faint") for count in powers)]


def _bar(x: Scale, y: Scale, delta: float, index: int, count: int, rows: int) -> str:
    low, high = delta + index * BIN, delta + (index + 1) * BIN
    left, width = x(low) + 0.6, x(high) - x(low) - 1.2
    counted = f"{count} row" if count == 1 else f"{count} rows"
    hover = f"{format_number(low)} to {format_number(high)}: {counted}, {percent(count / max(1, rows))}"
    tone = "f-warm" if index >= 0 else "f-quiet"
    return svg_rect(left, y(count), width, y.start - y(count), tone, hover=hover)
