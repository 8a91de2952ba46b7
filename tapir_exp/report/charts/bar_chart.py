"""Chart of grouped horizontal bars."""

from collections.abc import Sequence
from dataclasses import dataclass

from tapir_exp.report.charts.svg import (
    BOLD,
    REGULAR,
    WIDE,
    Box,
    Scale,
    svg_document,
    svg_line,
    svg_rect,
    svg_text,
    text_width,
)


@dataclass(frozen=True)
class Group:
    """One row: its bars, a mark at the target, and a note at the right end. Strong rows are bold."""

    label: str
    values: tuple[float, ...]
    target: float | None
    note: str
    strong: bool = False


def grouped_bars(groups: Sequence[Group], names: Sequence[str], title: str, width: int = WIDE) -> str:
    """Draw one group of bars per row and one bar per series; colours deepen from the first series to the last."""
    thickness = 6 if len(names) > 3 else 7
    pitch = len(names) * thickness + 13
    key, key_height = _key(names, width)
    left = 12 + max((text_width(g.label, BOLD if g.strong else REGULAR) for g in groups), default=0.0)
    right = 9 + max((text_width(g.note, BOLD if g.strong else REGULAR) for g in groups), default=0.0)
    box = Box(width, key_height + pitch * len(groups) + 8, left=left, right=right, top=key_height, bottom=8)
    highest = max((v for g in groups for v in (*g.values, g.target or 0.0)), default=1.0) or 1.0
    x = Scale(0, highest, *box.x)
    rows = [part for i, g in enumerate(groups) for part in _group(g, names, box.top + i * pitch, x, thickness, pitch)]
    description = "; ".join(f"{g.label}: {g.note}" for g in groups)
    return svg_document(box, title, description, [*key, *rows])


def _group(group: Group, names: Sequence[str], top: float, x: Scale, thickness: float, pitch: float) -> list[str]:
    height, middle = len(group.values) * thickness, top + pitch / 2
    first = middle - height / 2
    weight = " strong" if group.strong else ""
    parts = [
        svg_text(x.start - 9, middle + 4, group.label, f"end{weight}"),
        svg_text(x.end + 9, middle + 4, group.note, f"num{weight}"),
    ]
    parts += [
        svg_rect(
            *(x.start, first + i * thickness, max(0.5, x(v) - x.start), thickness - 1),
            *_shade(i, len(group.values)),
            hover=f"{group.label}, {name}: {v * 100:.2f} %",
        )
        for i, (name, v) in enumerate(zip(names, group.values, strict=True))
    ]
    if group.target is not None:
        parts.append(svg_line(x(group.target), first - 3, x(group.target), first + height + 2, "target"))
    return parts


def _shade(index: int, count: int) -> tuple[str, float]:
    """Return style and opacity of a series. The first one is the state before the rounds, so it is grey."""
    if index == 0:
        return "f-quiet", 1.0
    return "f-accent", round(0.4 + 0.6 * index / max(1, count - 1), 2)


def _key(names: Sequence[str], width: float) -> tuple[list[str], float]:
    """Return the legend, wrapped to the width, and its height."""
    parts: list[str] = []
    x, y = 2.0, 12.0
    for i, name in enumerate((*names, "target")):
        needed = 22 + text_width(name)
        if x + needed > width:
            x, y = 2.0, y + 18
        if i < len(names):
            parts.append(svg_rect(x, y - 9, 11, 10, *_shade(i, len(names))))
        else:
            parts.append(svg_line(x + 5, y - 11, x + 5, y + 3, "target"))
        parts.append(svg_text(x + 16, y, name, ""))
        x += needed + 14
    return parts, y + 16
