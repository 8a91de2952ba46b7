"""Confusion matrix and reliability diagram."""

import math
from collections.abc import Sequence

from tapir_exp.report.charts.svg import (
    NARROW,
    Box,
    Scale,
    slanted_text,
    svg_circle,
    svg_document,
    svg_line,
    svg_rect,
    svg_text,
    text_width,
)

CELL = 22
"""Side of a cell, in units of the drawing."""


def matrix(
    rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]], title: str, description: str
) -> str:
    """Draw counts as cells, shaded by their share of the row; agreement and disagreement have different colours."""
    left = 12 + max(map(text_width, (f"{row} 999" for row in rows)), default=0.0)
    top = 22 + max(map(text_width, columns), default=0.0) * 0.75
    box = Box(left + CELL * len(columns) + 70, top + CELL * len(rows) + 8, left=left, right=70, top=top, bottom=8)
    names = [slanted_text(box.left + (i + 0.5) * CELL, box.top - 6, name) for i, name in enumerate(columns)]
    cells = [
        part
        for line, (name, row) in enumerate(zip(rows, counts, strict=True))
        for part in _matrix_row(name, columns, row, box, box.top + line * CELL)
    ]
    return svg_document(box, title, description, [*names, *cells])


def _matrix_row(name: str, columns: Sequence[str], counts: Sequence[int], box: Box, top: float) -> list[str]:
    parts = [
        svg_text(box.left - 8, top + CELL / 2 + 4, f"{name} {sum(counts)}", "end"),
        svg_line(box.left, top + CELL, box.left + CELL * len(columns), top + CELL, "grid"),
    ]
    for i, (column, count) in enumerate(zip(columns, counts, strict=True)):
        if count:
            shade = round(0.15 + 0.6 * count / sum(counts), 2)
            tone = "f-good" if column == name else "f-warm"
            parts.append(svg_rect(box.left + i * CELL, top, CELL - 1, CELL - 1, tone, shade))
            parts.append(svg_text(box.left + (i + 0.5) * CELL, top + CELL / 2 + 4, str(count), "mid strong"))
    return parts


def reliability(points: Sequence[tuple[float, float, int]], title: str, description: str) -> str:
    """Draw accuracy over confidence, one dot per bin, larger with more rows; the line is perfect calibration."""
    box = Box(NARROW, NARROW, left=40, right=20, top=30, bottom=40)
    x, y = Scale(0, 1, *box.x), Scale(0, 1, *box.y)
    largest = max(rows for _, _, rows in points)
    axes = [svg_line(x(0), y(0), x(1), y(0), "axis"), svg_line(x(0), y(0), x(0), y(1), "axis")]
    ticks = [
        part
        for share in (0.0, 0.5, 1.0)
        for part in (
            svg_text(x(share), y(0) + 16, f"{share:.0%}", "mid faint"),
            svg_text(x(0) - 5, y(share) + 4, f"{share:.0%}", "end faint"),
        )
    ]
    dots = [
        svg_circle(x(confidence), y(accuracy), 2 + 6 * math.sqrt(rows / largest), "f-accent ghost")
        for confidence, accuracy, rows in points
    ]
    perfect = svg_line(x(0), y(0), x(1), y(1), "mark")
    names = [svg_text(2, 14, "accuracy", "head"), svg_text(box.x[1], box.height - 4, "confidence", "end faint")]
    return svg_document(box, title, description, [*names, *axes, *ticks, perfect, *dots])
