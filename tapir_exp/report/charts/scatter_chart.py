"""Scatter plot of figures over costs, with the line of the points that no other point beats in both."""

from collections.abc import Sequence
from dataclasses import dataclass

from tapir_exp.report.charts.svg import (
    WIDE,
    Box,
    Scale,
    axis_ticks,
    format_number,
    svg_circle,
    svg_document,
    svg_line,
    svg_path,
    svg_text,
)


@dataclass(frozen=True)
class Mark:
    """A point of the plot.

    Attributes:
        x: Horizontal value.
        y: Vertical value.
        label: Text beside the point; empty for none.
        strong: Whether it is on the line.
        faint: Whether it is shown as a backdrop.
    """

    x: float
    y: float
    label: str = ""
    strong: bool = False
    faint: bool = False


def scatter(marks: Sequence[Mark], axes: tuple[str, str], title: str, description: str, height: float = 300) -> str:
    """Draw the points, and a line through the strong ones.

    Args:
        marks: The points.
        axes: Names of the horizontal and the vertical axis.
        title: Title of the chart.
        description: Text for screen readers.
        height: Height, in units of the drawing.
    """
    box = Box(WIDE, height, left=56, right=90, top=44, bottom=42)
    x, y = _scale([mark.x for mark in marks], *box.x), _scale([mark.y for mark in marks], *box.y)
    parts = [svg_text(2, 16, title, "head"), svg_text(box.left, box.top - 10, axes[1], "faint")]
    for tick in axis_ticks(y.low, y.high, 4):
        parts.append(svg_line(box.left, y(tick), box.x[1], y(tick), "grid"))
        parts.append(svg_text(box.left - 6, y(tick) + 4, format_number(tick), "end faint"))
    parts.append(svg_line(box.left, box.y[0], box.x[1], box.y[0], "axis"))
    parts += [svg_text(x(t), box.y[0] + 17, format_number(t), "mid faint") for t in axis_ticks(x.low, x.high, 6)]
    parts.append(svg_text((box.left + box.x[1]) / 2, box.height - 5, axes[0], "mid faint"))
    strong = sorted((mark for mark in marks if mark.strong), key=lambda mark: mark.x)
    parts.append(svg_path([(x(mark.x), y(mark.y)) for mark in strong], "stroke thin s-warm"))
    for mark in marks:
        tone = "f-warm ring" if mark.strong else "f-quiet" if mark.faint else "f-accent ghost"
        parts.append(svg_circle(x(mark.x), y(mark.y), 5 if mark.strong else 3.5, tone))
        if mark.label:
            parts.append(svg_text(x(mark.x) + 8, y(mark.y) - 6, mark.label, "strong" if mark.strong else "faint"))
    return svg_document(box, title, description, parts)


def _scale(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a scale with some room on both sides of the values."""
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    return Scale(low - room, high + room, start, end)
