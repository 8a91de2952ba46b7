"""Primitives of the SVG charts: boxes, scales, ticks and shapes."""

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from tapir_exp.core.text import escape_controls

WIDE = 920
NARROW = 360
PANEL = 300
"""Widths of charts, in units of the drawing."""
LINE = 15
"""Smallest distance of two labels, in units of the drawing; text is 12 high."""
REGULAR = 6.7
BOLD = 7.6
"""Width of a letter. Estimates are generous, because the font of the reader is unknown."""


@dataclass(frozen=True)
class Box:
    """Size of a drawing, and the margins around its plot."""

    width: float
    height: float
    left: float = 40
    right: float = 14
    top: float = 44
    bottom: float = 38

    @property
    def x(self) -> tuple[float, float]:
        """Left and right edges of the plot."""
        return self.left, self.width - self.right

    @property
    def y(self) -> tuple[float, float]:
        """Bottom and top edges of the plot."""
        return self.height - self.bottom, self.top


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` to positions from `start` to `end`, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value in the drawing."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / ((high - low) or 1.0)


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart by at least `gap`, within bounds and in order, with one pass in each direction."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    moved = [min(max(positions[i], low), high) for i in order]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    limit = high
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - gap
    return [moved[order.index(i)] for i in range(len(positions))]


def percent(share: float) -> str:
    """Format a share in whole per cent; only 0 and 1 become 0 % and 100 %."""
    whole = round(share * 100)
    if whole == 0 and share > 0:
        return "<1 %"
    if whole == 100 and share < 1:
        return ">99 %"
    return f"{whole} %"


def compact(amount: float) -> str:
    """Format a count with at most three digits: 950, 12k, 1.2M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if amount >= size:
            return f"{amount / size:.{1 if amount < 10 * size else 0}f}".removesuffix(".0") + unit
    return f"{amount:.0f}"


def axis_ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers from low to high, about `most` of them at most."""
    raw = (high - low) / max(1, most) or 1.0
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw * 0.999)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return ticks of a logarithmic axis: denser for a smaller range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if 6 < high / low < 300 else (1,) if high / low > 6 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    return [m * 10.0**p for p in powers for m in steps if low <= m * 10.0**p <= high]


def format_number(value: float) -> str:
    """Format a number with a true minus sign."""
    return f"{value:g}".replace("-", "−")


def text_width(text: str, each: float = REGULAR) -> float:
    """Estimate the width of a text."""
    return each * len(text)


def svg_document(box: Box, title: str, description: str, parts: Iterable[str]) -> str:
    """Return an SVG element with title and description for screen readers."""
    # Several charts share a page, so the ids must differ, and must be the same in every run.
    name = "c" + sha256(f"{title}|{description}|{box}".encode()).hexdigest()[:10]
    return (
        f'<svg class="chart" viewBox="0 0 {_n(box.width)} {_n(box.height)}" role="img"'
        f' aria-labelledby="{name}t" aria-describedby="{name}d" xmlns="http://www.w3.org/2000/svg">'
        f'<title id="{name}t">{_escape(title)}</title><desc id="{name}d">{_escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def svg_text(x: float, y: float, text: str, style: str) -> str:
    """Return a text element; `style` is a list of CSS classes."""
    return f'<text x="{_n(x)}" y="{_n(y)}" class="{style}">{_escape(text)}</text>'


def slanted_text(x: float, y: float, text: str) -> str:
    """Return a text element that rises to the right."""
    return f'<text transform="translate({_n(x)} {_n(y)}) rotate(-50)">{_escape(text)}</text>'


def svg_line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """Return a line element."""
    return f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" class="{style}"/>'


def svg_rect(x: float, y: float, width: float, height: float, style: str, opacity: float = 1.0, hover: str = "") -> str:
    """Return a rectangle element; a pointer over it shows `hover`."""
    faded = "" if opacity == 1.0 else f' fill-opacity="{_n(opacity)}"'
    shape = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" class="{style}"{faded}'
    return _with_hover("rect", shape, hover)


def svg_circle(x: float, y: float, radius: float, style: str, hover: str = "") -> str:
    """Return a circle element; a pointer over it shows `hover`."""
    return _with_hover("circle", f'cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" class="{style}"', hover)


def _with_hover(element: str, shape: str, hover: str) -> str:
    return f"<{element} {shape}><title>{_escape(hover)}</title></{element}>" if hover else f"<{element} {shape}/>"


def svg_path(points: Sequence[tuple[float, float]], style: str) -> str:
    """Return a path element through the points; an empty text without points."""
    if not points:
        return ""
    return f'<path d="M{" L".join(f"{_n(x)} {_n(y)}" for x, y in points)}" class="{style}"/>'


def _n(value: float) -> str:
    """Format a coordinate with at most two decimals, so that equal figures give equal bytes."""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def _escape(text: str) -> str:
    # A control character would make the whole drawing invalid XML.
    return html.escape(escape_controls(text))
