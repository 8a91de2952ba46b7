"""Chart of means with confidence intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

from tapir_exp.report.charts.svg import (
    BOLD,
    REGULAR,
    WIDE,
    Box,
    Scale,
    axis_ticks,
    format_number,
    svg_circle,
    svg_document,
    svg_line,
    svg_text,
    text_width,
)


@dataclass(frozen=True)
class Dot:
    """One row: a mean with its interval, the single values, and a note at the right end."""

    label: str
    mean: float | None
    low: float | None
    high: float | None
    values: tuple[float, ...]
    note: str
    strong: bool = False


def dots(rows: Sequence[Dot], title: str, axis: str, width: int = WIDE) -> str:
    """Draw one mean with its interval per row, and its single values below.

    A dashed line marks the mean of the strong row, or of the first one if none is strong. Intervals are clipped to
    shares from 0 to 1.
    """
    left = 12 + max((text_width(row.label, BOLD if row.strong else REGULAR) for row in rows), default=0.0)
    right = 12 + max((text_width(row.note, BOLD if row.strong else REGULAR) for row in rows), default=0.0)
    pitch = 30.0
    box = Box(width, 40 + pitch * len(rows) + 42, left=left, right=right, top=36, bottom=42)
    numbers = [v for row in rows for v in (*row.values, row.low, row.high, row.mean) if v is not None]
    x = Scale(*_padded(numbers), *box.x)
    drawn = [part for i, row in enumerate(rows) for part in _dot(row, box.top + pitch * (i + 0.5) + 2, x, i)]
    reference = next((row.mean for row in sorted(rows, key=lambda row: not row.strong)), None)
    mark = [] if reference is None else [svg_line(x(reference), box.top - 4, x(reference), box.y[0], "mark")]
    description = "; ".join(f"{row.label}: {row.note or 'missing'}" for row in rows)
    head = [svg_text(2, 16, title, "head"), *_dot_axis(box, x, axis)]
    return svg_document(box, title, description, [*head, *mark, *drawn])


def _dot_axis(box: Box, x: Scale, axis: str) -> list[str]:
    parts = [svg_line(box.x[0], box.y[0], box.x[1], box.y[0], "axis")]
    for tick in axis_ticks(x.low, x.high, 6):
        parts.append(svg_line(x(tick), box.top, x(tick), box.y[0], "grid"))
        parts.append(svg_text(x(tick), box.y[0] + 16, f"{format_number(round(tick * 100, 6))}", "mid faint"))
    parts.append(svg_text(sum(box.x) / 2, box.height - 6, axis, "mid faint"))
    return parts


def _dot(row: Dot, y: float, x: Scale, index: int) -> list[str]:
    tone = "warm" if row.strong else "accent"
    weight = " strong" if row.strong else ""
    parts = [svg_text(x.start - 10, y + 4, row.label, f"end{weight}")]
    parts += [svg_circle(x(value), y + 9, 2.2, f"f-{tone} ghost") for value in row.values]
    if row.low is not None and row.high is not None:
        low, high = max(row.low, x.low), min(row.high, x.high)
        parts.append(svg_line(x(low), y, x(high), y, f"s-{tone} interval"))
    if row.mean is not None:
        parts.append(svg_circle(x(row.mean), y, 4.6, f"f-{tone} ring"))
    return [*parts, svg_text(x.end + 10, y + 4, row.note, f"num{weight}")]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    room = 0.06 * (max(values) - min(values)) or 0.02
    return max(0.0, min(values) - room), min(1.0, max(values) + room)
