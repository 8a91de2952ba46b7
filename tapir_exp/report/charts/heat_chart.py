"""Heat map of shares over two numeric settings, with the figures in the cells."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from tapir_exp.report.charts.svg import WIDE, Box, svg_document, svg_line, svg_rect, svg_text, text_width

CELL_WIDTH, CELL_HEIGHT = 92, 40
FAINTEST, STRONGEST = 0.08, 0.55
"""Opacities of the smallest and the largest share; the figure above stays readable on both."""


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], tuple[float, str]],
    names: tuple[str, str],
    title: str,
    description: str,
    strong: tuple[str, str] | None = None,
) -> str:
    """Draw one cell for each pair of values, darker for a larger share.

    Args:
        rows: Values of the vertical setting, the first one at the top.
        columns: Values of the horizontal setting.
        cells: Share and text by row and column; a pair without one stays empty.
        names: Names of the vertical and the horizontal setting.
        title: Title of the chart.
        description: Text for screen readers.
        strong: Row and column of the cell with a frame, if any.
    """
    left = 16 + max(map(text_width, (*rows, names[0])))
    # A chart is as wide as the page, so that a narrower drawing would be enlarged.
    width = max(WIDE, left + CELL_WIDTH * len(columns) + 2)
    box = Box(width, 48 + CELL_HEIGHT * len(rows) + 42, left=left, top=48, bottom=42)
    shares = [share for share, _ in cells.values()]
    low, high = min(shares, default=0.0), max(shares, default=0.0)
    bottom, right = box.top + CELL_HEIGHT * len(rows), box.left + CELL_WIDTH * len(columns)
    parts = [svg_text(2, 16, title, "head"), svg_text(box.left - 8, box.top - 8, names[0], "end faint")]
    parts.append(svg_text((box.left + right) / 2, bottom + 36, names[1], "mid faint"))
    parts += [
        svg_text(box.left + (index + 0.5) * CELL_WIDTH, bottom + 17, value, "mid")
        for index, value in enumerate(columns)
    ]
    for line, row in enumerate(rows):
        top = box.top + line * CELL_HEIGHT
        parts.append(svg_text(box.left - 8, top + CELL_HEIGHT / 2 + 4, row, "end"))
        for index, column in enumerate(columns):
            found = cells.get((row, column))
            start = box.left + index * CELL_WIDTH
            text = "–"
            if found is not None:
                strength = FAINTEST + (STRONGEST - FAINTEST) * (found[0] - low) / ((high - low) or 1.0)
                parts.append(svg_rect(start, top, CELL_WIDTH - 2, CELL_HEIGHT - 2, "f-accent", strength))
                text = found[1]
            is_strong = (row, column) == strong
            style = "mid strong" if is_strong else "mid"
            parts.append(svg_text(start + CELL_WIDTH / 2 - 1, top + CELL_HEIGHT / 2 + 3, text, style))
            parts += _frame(start, top) if is_strong else []
    return svg_document(box, title, description, parts)


def _frame(left: float, top: float) -> list[str]:
    right, bottom = left + CELL_WIDTH - 2, top + CELL_HEIGHT - 2
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return [svg_line(*start, *end, "mark") for start, end in pairwise(corners)]
