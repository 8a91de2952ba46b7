"""Chart of accuracies over the rounds.

Lines are labelled directly. Colours come from `chart.css.jinja`, whose palette is safe for colour-blind readers (Okabe
and Ito, 2008).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tapir_exp.report.charts.svg import (
    BOLD,
    LINE,
    NARROW,
    Box,
    Scale,
    percent,
    spread,
    svg_circle,
    svg_document,
    svg_line,
    svg_path,
    svg_text,
    text_width,
)


@dataclass(frozen=True)
class Point:
    """A value, with its interval if there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """A named line. Tone is accent, warm, good, violet or quiet; a line without a label is a backdrop."""

    name: str
    points: tuple[Point, ...]
    tone: str = "accent"
    labelled: bool = True


def lines(
    series: Sequence[Series],
    ticks: Sequence[str],
    title: str,
    description: str,
    *,
    width: int = NARROW,
    height: int = 200,
    small: bool = False,
) -> str:
    """Draw shares over the rounds, with their intervals.

    Args:
        series: The lines; x of a point is the number of the round.
        ticks: Names of the rounds.
        title: Title of the chart.
        description: Text for screen readers.
        width: Width, in units of the drawing.
        height: Height, likewise.
        small: Whether the chart is one of many panels, which show values instead of names at the ends of lines.
    """
    margin = 44.0 if small else 50 + max((text_width(s.name, BOLD) for s in series), default=0.0)
    box = Box(width, height, left=34 if not small else 30, right=margin, top=30, bottom=24)
    x = Scale(0, max(1, len(ticks) - 1), box.left + 8, box.width - box.right)
    y = Scale(0, 1, *box.y)
    grid = [
        part
        for level in (0.0, 0.5, 1.0)
        for part in (
            svg_line(box.left, y(level), box.x[1], y(level), "axis" if level == 0 else "grid"),
            svg_text(box.left - 5, y(level) + 4, f"{round(level * 100)}", "end faint"),
        )
    ]
    names = [svg_text(x(i), box.height - 5, tick, "mid faint") for i, tick in enumerate(ticks)]
    drawn = [part for s in series for part in _line_series(s, ticks, x, y)]
    labels = _end_labels([s for s in series if s.points and s.labelled], x, y, small)
    return svg_document(box, title, description, [svg_text(2, 14, title, "head"), *grid, *names, *drawn, *labels])


def _line_series(series: Series, ticks: Sequence[str], x: Scale, y: Scale) -> list[str]:
    path = svg_path([(x(p.x), y(p.y)) for p in series.points], f"s-{series.tone} stroke")
    whiskers = [
        svg_line(x(p.x), y(p.low), x(p.x), y(p.high), f"s-{series.tone} whisker")
        for p in series.points
        if p.low is not None and p.high is not None
    ]
    dots = [svg_circle(x(p.x), y(p.y), 3, f"f-{series.tone}", _hover(series.name, ticks, p)) for p in series.points]
    return [*whiskers, path, *dots]


def _hover(name: str, ticks: Sequence[str], point: Point) -> str:
    at = ticks[round(point.x)] if 0 <= round(point.x) < len(ticks) else f"{point.x:g}"
    reach = "" if point.low is None or point.high is None else f" ({point.low * 100:.1f} to {point.high * 100:.1f})"
    return f"{name}, {at}: {point.y * 100:.1f} %{reach}"


def _end_labels(series: Sequence[Series], x: Scale, y: Scale, small: bool) -> list[str]:
    ends = [s.points[-1] for s in series]
    # Labels of lines that end at similar values would overlap.
    positions = spread([y(p.y) + 4 for p in ends], LINE, y.end + 4, y.start + 4)
    return [
        svg_text(x(p.x) + 9, position, percent(p.y) if small else f"{percent(p.y)} {s.name}", f"t-{s.tone} strong")
        for s, p, position in zip(series, ends, positions, strict=True)
    ]
