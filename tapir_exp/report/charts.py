"""Charts as SVG text: labelled directly, read by screen readers, coloured by the page's CSS variables. Pure.

Colours come from `chart.css.jinja`, whose tones are told apart by colour-blind eyes too (Okabe & Ito 2008).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape

WIDE = 920
NARROW = 360
PANEL = 300
LINE = 15
"""Least distance of two labels, in units of the drawing; text is 12 high."""
REGULAR = 6.7
BOLD = 7.6
"""Breadth of a letter, on the generous side: the reader's font is not known."""


@dataclass(frozen=True)
class Box:
    """A drawing and the margins around its plot, in units of the drawing."""

    width: float
    height: float
    left: float = 40
    right: float = 14
    top: float = 44
    bottom: float = 38

    @property
    def x(self) -> tuple[float, float]:
        """Left and right edge of the plot."""
        return self.left, self.width - self.right

    @property
    def y(self) -> tuple[float, float]:
        """Bottom and top edge of the plot."""
        return self.height - self.bottom, self.top


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` onto the drawing from `start` to `end`, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies in the drawing."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / ((high - low) or 1.0)


@dataclass(frozen=True)
class Point:
    """A value with its interval, where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """A line with its name; tone is one of accent, warm, good, violet, quiet. Without a label it is a backdrop."""

    name: str
    points: tuple[Point, ...]
    tone: str = "accent"
    labelled: bool = True


@dataclass(frozen=True)
class Group:
    """The bars of one row, a tick where the target is, and a note at the right end; strong rows are set in bold."""

    label: str
    values: tuple[float, ...]
    target: float | None
    note: str
    strong: bool = False


@dataclass(frozen=True)
class FitCurve:
    """The steps of one fit: tokens since its start, and losses in nats; None where a step has no such part."""

    name: str
    tokens: tuple[int, ...]
    loss: tuple[float, ...]
    hard: tuple[float | None, ...]
    rest: tuple[float | None, ...]


@dataclass(frozen=True)
class Dot:
    """A mean with its interval, the values it is the mean of, and a note at the right end."""

    label: str
    mean: float | None
    low: float | None
    high: float | None
    values: tuple[float, ...]
    note: str
    strong: bool = False


BIN = 0.5
"""Width of a histogram's bin, in judge points."""


def histograms(panels: Sequence[tuple[str, Sequence[float]]], delta: float) -> list[str]:
    """One histogram of gaps per panel, all on the same axes, with the threshold and the share beyond it.

    Bins are half a point wide and closed at their upper edge, with an edge at delta: gap > delta lies right of it.
    """
    everything = [gap for _, gaps in panels for gap in gaps]
    if not everything:
        return []
    first = min(-4, math.floor((min(everything) - delta) / BIN))
    last = max(6, math.ceil((max(everything) - delta) / BIN))
    counted = [_count_bins(gaps, delta, first, last) for _, gaps in panels]
    tallest = max(share for shares in counted for share in shares)
    return [
        _histogram(title, gaps, shares, delta, first, tallest)
        for (title, gaps), shares in zip(panels, counted, strict=True)
    ]


def _count_bins(gaps: Sequence[float], delta: float, first: int, last: int) -> list[float]:
    """Share of the gaps in each bin (delta + i BIN, delta + (i + 1) BIN], for i from first to last - 1."""
    counts = [0] * (last - first)
    for gap in gaps:
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
    ticks = [_text(x(t), box.y[0] + 15, _number(t), "mid") for t in _ticks(x.low, x.high, 7)]
    parts = [
        _text(box.left, 14, title, "head"),
        *bars,
        _line(box.x[0], box.y[0], box.x[1], box.y[0], "axis"),
        *ticks,
        _text(box.width / 2, box.height - 3, "gap = teacher − student, points", "mid faint"),
        _line(x(delta), 28, x(delta), box.y[0], "mark"),
        _text(x(delta) - 5, 38, f"δ = {_number(delta)}", "end"),
        _text(x(delta) + 5, 38, f"{percent(above)} hard", "t-warm strong"),
    ]
    told = f"{len(gaps)} scored rows; {percent(above)} have a gap above {_number(delta)} points."
    return _svg(box, f"Gap histogram: {title}", told, parts)


def _bar(left: float, right: float, bottom: float, top: float, hard: bool) -> str:
    return _rect(left + 0.6, top, right - left - 1.2, bottom - top, "f-warm" if hard else "f-quiet")


def grouped_bars(groups: Sequence[Group], names: Sequence[str], title: str, width: int = WIDE) -> str:
    """Horizontal bars, one group a row and one bar a series, fading in from the first series to the last."""
    thick = 6 if len(names) > 3 else 7
    pitch = len(names) * thick + 13
    key, key_height = _key(names, width)
    left = 12 + max((_breadth(g.label, BOLD if g.strong else REGULAR) for g in groups), default=0.0)
    right = 9 + max((_breadth(g.note, BOLD if g.strong else REGULAR) for g in groups), default=0.0)
    box = Box(width, key_height + pitch * len(groups) + 8, left=left, right=right, top=key_height, bottom=8)
    highest = max((v for g in groups for v in (*g.values, g.target or 0.0)), default=1.0) or 1.0
    x = Scale(0, highest, *box.x)
    rows = [part for i, g in enumerate(groups) for part in _group(g, box.top + i * pitch, x, thick, pitch)]
    told = "; ".join(f"{g.label}: {g.note}" for g in groups)
    return _svg(box, title, told, [*key, *rows])


def _group(group: Group, top: float, x: Scale, thick: float, pitch: float) -> list[str]:
    height, middle = len(group.values) * thick, top + pitch / 2
    first = middle - height / 2
    weight = " strong" if group.strong else ""
    parts = [
        _text(x.start - 9, middle + 4, group.label, f"end{weight}"),
        _text(x.end + 9, middle + 4, group.note, f"num{weight}"),
    ]
    parts += [
        _rect(x.start, first + i * thick, max(0.5, x(v) - x.start), thick - 1, *_shade(i, len(group.values)))
        for i, v in enumerate(group.values)
    ]
    if group.target is not None:
        parts.append(_line(x(group.target), first - 3, x(group.target), first + height + 2, "target"))
    return parts


def _shade(index: int, count: int) -> tuple[str, float]:
    """The first series is what was there before; the others deepen up to the last."""
    if index == 0:
        return "f-quiet", 1.0
    return "f-accent", round(0.4 + 0.6 * index / max(1, count - 1), 2)


def _key(names: Sequence[str], width: float) -> tuple[list[str], float]:
    """Swatches with their names, wrapped to the width; returns them and their height."""
    parts: list[str] = []
    x, y = 2.0, 12.0
    for i, name in enumerate((*names, "target")):
        needed = 22 + _breadth(name)
        if x + needed > width:
            x, y = 2.0, y + 18
        if i < len(names):
            parts.append(_rect(x, y - 9, 11, 10, *_shade(i, len(names))))
        else:
            parts.append(_line(x + 5, y - 11, x + 5, y + 3, "target"))
        parts.append(_text(x + 16, y, name, ""))
        x += needed + 14
    return parts, y + 16


def lines(
    series: Sequence[Series],
    ticks: Sequence[str],
    title: str,
    told: str,
    *,
    width: int = NARROW,
    height: int = 200,
    small: bool = False,
) -> str:
    """Shares over the rounds with their intervals; x counts the rounds and `ticks` names them.

    Each line's name stands at its right end, moved apart where two would touch. A small chart shows its
    single line's first and last value instead.
    """
    margin = 44.0 if small else 50 + max((_breadth(s.name, BOLD) for s in series), default=0.0)
    box = Box(width, height, left=34 if not small else 30, right=margin, top=30, bottom=24)
    x = Scale(0, max(1, len(ticks) - 1), box.left + 8, box.width - box.right)
    y = Scale(0, 1, *box.y)
    grid = [
        part
        for level in (0.0, 0.5, 1.0)
        for part in (
            _line(box.left, y(level), box.x[1], y(level), "axis" if level == 0 else "grid"),
            _text(box.left - 5, y(level) + 4, f"{round(level * 100)}", "end faint"),
        )
    ]
    names = [_text(x(i), box.height - 5, tick, "mid faint") for i, tick in enumerate(ticks)]
    drawn = [part for s in series for part in _line_series(s, x, y)]
    labels = _end_labels([s for s in series if s.points and s.labelled], x, y, small)
    return _svg(box, title, told, [_text(2, 14, title, "head"), *grid, *names, *drawn, *labels])


def _line_series(series: Series, x: Scale, y: Scale) -> list[str]:
    path = _path([(x(p.x), y(p.y)) for p in series.points], f"s-{series.tone} stroke")
    whiskers = [
        _line(x(p.x), y(p.low), x(p.x), y(p.high), f"s-{series.tone} whisker")
        for p in series.points
        if p.low is not None and p.high is not None
    ]
    return [*whiskers, path, *(_circle(x(p.x), y(p.y), 3, f"f-{series.tone}") for p in series.points)]


def _end_labels(series: Sequence[Series], x: Scale, y: Scale, small: bool) -> list[str]:
    ends = [s.points[-1] for s in series]
    places = spread([y(p.y) + 4 for p in ends], LINE, y.end + 4, y.start + 4)
    return [
        _text(x(p.x) + 9, place, percent(p.y) if small else f"{percent(p.y)} {s.name}", f"t-{s.tone} strong")
        for s, p, place in zip(series, ends, places, strict=True)
    ]


def loss_curves(fits: Sequence[FitCurve], title: str, width: int = WIDE) -> str:
    """The loss of every fit after another, raw and smoothed, with the parts that it weighs; the rounds are marked."""
    fits = [fit for fit in fits if fit.tokens]
    losses = [value for fit in fits for value in fit.loss if value > 0]
    if not losses:
        return ""
    box = Box(width, 290 if width > NARROW else 250, left=40, right=62, top=30, bottom=38)
    total = sum(fit.tokens[-1] for fit in fits)
    x = Scale(0, total, *box.x)
    y = Scale(*_log_range(fits), *box.y, log=True)
    curves = [part for fit, start in zip(fits, _starts(fits), strict=True) for part in _fit(fit, start, x, y, box)]
    labels = _loss_labels(fits[-1], x, y, box)
    told = "; ".join(f"{fit.name} ends at {fit.loss[-1]:.3f}" for fit in fits) + " (nats, last step)."
    axes = _loss_axes(box, x, y)
    return _svg(box, title, told, [*axes, *curves, *labels])


def _starts(fits: Sequence[FitCurve]) -> list[int]:
    starts = [0]
    for fit in fits[:-1]:
        starts.append(starts[-1] + fit.tokens[-1])
    return starts


def _log_range(fits: Sequence[FitCurve]) -> tuple[float, float]:
    """The range of the smoothed curves, so that a single odd step does not set the scale."""
    values = [v for fit in fits for part in (fit.loss, fit.hard, fit.rest) for _, v in smooth(fit.tokens, part)]
    positive = [v for v in values if v > 0]
    return min(positive) / 1.25, max(positive) * 1.1


def _loss_axes(box: Box, x: Scale, y: Scale) -> list[str]:
    parts = [_line(box.x[0], box.y[0], box.x[1], box.y[0], "axis")]
    for tick in _log_ticks(y.low, y.high):
        parts.append(_line(box.x[0], y(tick), box.x[1], y(tick), "grid"))
        parts.append(_text(box.left - 6, y(tick) + 4, f"{tick:g}", "end faint"))
    amounts = _ticks(0, x.high, 5 if box.width > NARROW else 3)
    parts += [_text(x(amount), box.y[0] + 15, compact(amount), "mid faint") for amount in amounts]
    parts.append(_text(sum(box.x) / 2, box.height - 4, "training tokens · loss in nats, log scale", "mid faint"))
    return parts


def _fit(fit: FitCurve, start: int, x: Scale, y: Scale, box: Box) -> list[str]:
    def place(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x(start + t), min(box.y[0], max(box.y[1], y(v)))) for t, v in points if v > 0]

    every = max(1, len(fit.tokens) // 300)
    raw = list(zip(fit.tokens, fit.loss, strict=True))[::every]
    parts = [_line(x(start), box.top - 4, x(start), box.y[0], "round")] if start else []
    parts.append(_text(x(start) + 5, box.top - 8, fit.name if box.width > NARROW else fit.name[:2], "strong"))
    parts.append(_path(place(raw), "s-quiet raw"))
    parts.append(_path(place(smooth(fit.tokens, fit.rest)), "s-accent stroke thin"))
    parts.append(_path(place(smooth(fit.tokens, fit.hard)), "s-warm stroke thin"))
    parts.append(_path(place(smooth(fit.tokens, fit.loss)), "s-ink stroke"))
    return parts


def _loss_labels(fit: FitCurve, x: Scale, y: Scale, box: Box) -> list[str]:
    named = (("loss", fit.loss, "ink"), ("hard", fit.hard, "warm"), ("rest", fit.rest, "accent"))
    ends = [(name, smooth(fit.tokens, values), tone) for name, values, tone in named]
    known = [(name, points[-1][1], tone) for name, points, tone in ends if points and points[-1][1] > 0]
    places = spread([y(value) + 4 for _, value, _ in known], LINE, box.y[1], box.y[0] + 4)
    return [
        _text(box.x[1] + 6, place, name, f"t-{tone} strong")
        for (name, _, tone), place in zip(known, places, strict=True)
    ]


def smooth(tokens: Sequence[int], values: Sequence[float | None]) -> list[tuple[float, float]]:
    """Centred running means over a twentieth of the steps that have a value, as (tokens, mean) points."""
    known = [(t, v) for t, v in zip(tokens, values, strict=True) if v is not None]
    reach = max(1, len(known) // 40)
    every = max(1, len(known) // 150)
    points = []
    for i in sorted({*range(0, len(known), every), len(known) - 1} if known else ()):
        near = [v for _, v in known[max(0, i - reach) : i + reach + 1]]
        points.append((float(known[i][0]), math.fsum(near) / len(near)))
    return points


def dots(rows: Sequence[Dot], title: str, axis: str, width: int = WIDE) -> str:
    """Means with intervals, one a row, their single values small below; a dashed line carries the first row's mean.

    An interval that reaches beyond what a share can be is drawn up to there.
    """
    left = 12 + max((_breadth(row.label, BOLD if row.strong else REGULAR) for row in rows), default=0.0)
    right = 12 + max((_breadth(row.note, BOLD if row.strong else REGULAR) for row in rows), default=0.0)
    pitch = 30.0
    box = Box(width, 40 + pitch * len(rows) + 42, left=left, right=right, top=36, bottom=42)
    numbers = [v for row in rows for v in (*row.values, row.low, row.high, row.mean) if v is not None]
    x = Scale(*_padded(numbers), *box.x)
    drawn = [part for i, row in enumerate(rows) for part in _dot(row, box.top + pitch * (i + 0.5) + 2, x, i)]
    reference = rows[0].mean if rows else None
    mark = [] if reference is None else [_line(x(reference), box.top - 4, x(reference), box.y[0], "mark")]
    told = "; ".join(f"{row.label}: {row.note or 'missing'}" for row in rows)
    head = [_text(2, 16, title, "head"), *_dot_axis(box, x, axis)]
    return _svg(box, title, told, [*head, *mark, *drawn])


def _dot_axis(box: Box, x: Scale, axis: str) -> list[str]:
    parts = [_line(box.x[0], box.y[0], box.x[1], box.y[0], "axis")]
    for tick in _ticks(x.low, x.high, 6):
        parts.append(_line(x(tick), box.top, x(tick), box.y[0], "grid"))
        parts.append(_text(x(tick), box.y[0] + 16, f"{_number(round(tick * 100, 6))}", "mid faint"))
    parts.append(_text(sum(box.x) / 2, box.height - 6, axis, "mid faint"))
    return parts


def _dot(row: Dot, y: float, x: Scale, index: int) -> list[str]:
    tone = "warm" if row.strong else "accent"
    weight = " strong" if row.strong else ""
    parts = [_text(x.start - 10, y + 4, row.label, f"end{weight}")]
    parts += [_circle(x(value), y + 9, 2.2, f"f-{tone} ghost") for value in row.values]
    if row.low is not None and row.high is not None:
        low, high = max(row.low, x.low), min(row.high, x.high)
        parts.append(_line(x(low), y, x(high), y, f"s-{tone} interval"))
    if row.mean is not None:
        parts.append(_circle(x(row.mean), y, 4.6, f"f-{tone} ring"))
    return [*parts, _text(x.end + 10, y + 4, row.note, f"num{weight}")]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    room = 0.06 * (max(values) - min(values)) or 0.02
    return max(0.0, min(values) - room), min(1.0, max(values) + room)


CELL = 22
"""Side of a cell of a matrix, in units of the drawing."""


def matrix(rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]], title: str, told: str) -> str:
    """Counts as cells shaded by their share of the row; what agrees has one tone, what does not another."""
    left = 12 + max(map(_breadth, (f"{row} 999" for row in rows)), default=0.0)
    top = 22 + max(map(_breadth, columns), default=0.0) * 0.75
    box = Box(left + CELL * len(columns) + 70, top + CELL * len(rows) + 8, left=left, right=70, top=top, bottom=8)
    names = [_slanted(box.left + (i + 0.5) * CELL, box.top - 6, name) for i, name in enumerate(columns)]
    cells = [
        part
        for line, (name, row) in enumerate(zip(rows, counts, strict=True))
        for part in _matrix_row(name, columns, row, box, box.top + line * CELL)
    ]
    return _svg(box, title, told, [*names, *cells])


def _matrix_row(name: str, columns: Sequence[str], counts: Sequence[int], box: Box, top: float) -> list[str]:
    parts = [
        _text(box.left - 8, top + CELL / 2 + 4, f"{name} {sum(counts)}", "end"),
        _line(box.left, top + CELL, box.left + CELL * len(columns), top + CELL, "grid"),
    ]
    for i, (column, count) in enumerate(zip(columns, counts, strict=True)):
        if count:
            shade = round(0.15 + 0.6 * count / sum(counts), 2)
            tone = "f-good" if column == name else "f-warm"
            parts.append(_rect(box.left + i * CELL, top, CELL - 1, CELL - 1, tone, shade))
            parts.append(_text(box.left + (i + 0.5) * CELL, top + CELL / 2 + 4, str(count), "mid strong"))
    return parts


def reliability(points: Sequence[tuple[float, float, int]], title: str, told: str) -> str:
    """Accuracy over confidence, both 0 to 1, a dot a bin, larger with more rows; a perfect labeller is on the line."""
    box = Box(NARROW, NARROW, left=40, right=20, top=30, bottom=40)
    x, y = Scale(0, 1, *box.x), Scale(0, 1, *box.y)
    most = max(rows for _, _, rows in points)
    axes = [_line(x(0), y(0), x(1), y(0), "axis"), _line(x(0), y(0), x(0), y(1), "axis")]
    ticks = [
        part
        for share in (0.0, 0.5, 1.0)
        for part in (
            _text(x(share), y(0) + 16, f"{share:.0%}", "mid faint"),
            _text(x(0) - 5, y(share) + 4, f"{share:.0%}", "end faint"),
        )
    ]
    dots = [
        _circle(x(sure), y(right), 2 + 6 * math.sqrt(rows / most), "f-accent ghost") for sure, right, rows in points
    ]
    perfect = _line(x(0), y(0), x(1), y(1), "mark")
    names = [_text(2, 14, "right", "head"), _text(box.x[1], box.height - 4, "confidence", "end faint")]
    return _svg(box, title, told, [*names, *axes, *ticks, perfect, *dots])


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move places apart to at least `gap`, in their order and as little as one pass each way does, within bounds."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [min(max(places[i], low), high) for i in order]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    limit = high
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - gap
    return [moved[order.index(i)] for i in range(len(places))]


def percent(share: float) -> str:
    """A share in whole per cent; what is not 0 or 1 is never rounded to it."""
    whole = round(share * 100)
    if whole == 0 and share > 0:
        return "<1 %"
    if whole == 100 and share < 1:
        return ">99 %"
    return f"{whole} %"


def compact(amount: float) -> str:
    """A count in three digits at most: 950, 12k, 1.2M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if amount >= size:
            return f"{amount / size:.{1 if amount < 10 * size else 0}f}".removesuffix(".0") + unit
    return f"{amount:.0f}"


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from low to high, at most about `most` of them."""
    raw = (high - low) / max(1, most) or 1.0
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw * 0.999)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if 6 < high / low < 300 else (1,) if high / low > 6 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    return [m * 10.0**p for p in powers for m in steps if low <= m * 10.0**p <= high]


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _breadth(text: str, each: float = REGULAR) -> float:
    """About how wide 12-high text is drawn."""
    return each * len(text)


def _svg(box: Box, title: str, told: str, parts: Iterable[str]) -> str:
    name = "c" + sha256(f"{title}|{told}|{box}".encode()).hexdigest()[:10]
    return (
        f'<svg class="chart" viewBox="0 0 {_n(box.width)} {_n(box.height)}" role="img"'
        f' aria-labelledby="{name}t" aria-describedby="{name}d" xmlns="http://www.w3.org/2000/svg">'
        f'<title id="{name}t">{escape(title)}</title><desc id="{name}d">{escape(told)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" class="{style}">{escape(text)}</text>'


def _slanted(x: float, y: float, text: str) -> str:
    return f'<text transform="translate({_n(x)} {_n(y)}) rotate(-50)">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" class="{style}"/>'


def _rect(x: float, y: float, width: float, height: float, style: str, opacity: float = 1.0) -> str:
    faded = "" if opacity == 1.0 else f' fill-opacity="{_n(opacity)}"'
    return f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" class="{style}"{faded}/>'


def _circle(x: float, y: float, radius: float, style: str) -> str:
    return f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" class="{style}"/>'


def _path(points: Sequence[tuple[float, float]], style: str) -> str:
    if not points:
        return ""
    return f'<path d="M{" L".join(f"{_n(x)} {_n(y)}" for x, y in points)}" class="{style}"/>'


def _n(value: float) -> str:
    """Two decimals at most, so that the same figures give the same bytes, and no more of them than can be seen."""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")
