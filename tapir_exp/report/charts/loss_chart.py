"""Chart of the training loss over tokens."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tapir_exp.report.charts.svg import (
    LINE,
    NARROW,
    WIDE,
    Box,
    Scale,
    axis_ticks,
    compact,
    log_ticks,
    spread,
    svg_circle,
    svg_document,
    svg_line,
    svg_path,
    svg_text,
)

HOVER_POINTS = 40
"""Points of a fit that show their value under a pointer."""


@dataclass(frozen=True)
class FitCurve:
    """Steps of one fit: tokens since its start, and losses in nats; None if a step has no rows of that subset."""

    name: str
    tokens: tuple[int, ...]
    loss: tuple[float, ...]
    hard: tuple[float | None, ...]
    rest: tuple[float | None, ...]


def loss_curves(fits: Sequence[FitCurve], title: str, width: int = WIDE) -> str:
    """Draw the losses of all fits in sequence, raw and smoothed, with both subsets; vertical lines mark the rounds."""
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
    description = "; ".join(f"{fit.name} ends at {fit.loss[-1]:.3f}" for fit in fits) + " (nats, last step)."
    axes = _loss_axes(box, x, y)
    return svg_document(box, title, description, [*axes, *curves, *labels])


def _starts(fits: Sequence[FitCurve]) -> list[int]:
    starts = [0]
    for fit in fits[:-1]:
        starts.append(starts[-1] + fit.tokens[-1])
    return starts


def _log_range(fits: Sequence[FitCurve]) -> tuple[float, float]:
    """Return the range of the smoothed curves, which a single outlier does not determine."""
    values = [v for fit in fits for part in (fit.loss, fit.hard, fit.rest) for _, v in smooth(fit.tokens, part)]
    positive = [v for v in values if v > 0]
    return min(positive) / 1.25, max(positive) * 1.1


def _loss_axes(box: Box, x: Scale, y: Scale) -> list[str]:
    parts = [svg_line(box.x[0], box.y[0], box.x[1], box.y[0], "axis")]
    for tick in log_ticks(y.low, y.high):
        parts.append(svg_line(box.x[0], y(tick), box.x[1], y(tick), "grid"))
        parts.append(svg_text(box.left - 6, y(tick) + 4, f"{tick:g}", "end faint"))
    amounts = axis_ticks(0, x.high, 5 if box.width > NARROW else 3)
    parts += [svg_text(x(amount), box.y[0] + 15, compact(amount), "mid faint") for amount in amounts]
    parts.append(svg_text(sum(box.x) / 2, box.height - 4, "training tokens · loss in nats, log scale", "mid faint"))
    return parts


def _fit(fit: FitCurve, start: int, x: Scale, y: Scale, box: Box) -> list[str]:
    def project(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x(start + t), min(box.y[0], max(box.y[1], y(v)))) for t, v in points if v > 0]

    # 300 raw points are as many as the eye can tell apart at this width.
    every = max(1, len(fit.tokens) // 300)
    raw = list(zip(fit.tokens, fit.loss, strict=True))[::every]
    parts = [svg_line(x(start), box.top - 4, x(start), box.y[0], "round")] if start else []
    parts.append(svg_text(x(start) + 5, box.top - 8, fit.name if box.width > NARROW else fit.name[:2], "strong"))
    parts.append(svg_path(project(raw), "s-quiet raw"))
    parts.append(svg_path(project(smooth(fit.tokens, fit.rest)), "s-accent stroke thin"))
    parts.append(svg_path(project(smooth(fit.tokens, fit.hard)), "s-warm stroke thin"))
    parts.append(svg_path(project(smooth(fit.tokens, fit.loss)), "s-ink stroke"))
    return [*parts, *_hover_points(fit, start, x, y, box)]


def _hover_points(fit: FitCurve, start: int, x: Scale, y: Scale, box: Box) -> list[str]:
    """Return invisible points on the smoothed loss, which show their values under a pointer."""
    points = smooth(fit.tokens, fit.loss)
    shown = [(t, v) for t, v in points[:: max(1, len(points) // HOVER_POINTS)] if v > 0]
    return [
        svg_circle(x(start + t), min(box.y[0], max(box.y[1], y(v))), 5, "hover", f"{fit.name}, {t:.0f} tokens: {v:.3f}")
        for t, v in shown
    ]


def _loss_labels(fit: FitCurve, x: Scale, y: Scale, box: Box) -> list[str]:
    named = (("loss", fit.loss, "ink"), ("hard", fit.hard, "warm"), ("rest", fit.rest, "accent"))
    ends = [(name, smooth(fit.tokens, values), tone) for name, values, tone in named]
    labels = [(name, points[-1][1], tone) for name, points, tone in ends if points and points[-1][1] > 0]
    positions = spread([y(value) + 4 for _, value, _ in labels], LINE, box.y[1], box.y[0] + 4)
    return [
        svg_text(box.x[1] + 6, position, name, f"t-{tone} strong")
        for (name, _, tone), position in zip(labels, positions, strict=True)
    ]


def smooth(tokens: Sequence[int], values: Sequence[float | None]) -> list[tuple[float, float]]:
    """Return centred running means over a twentieth of the steps with a value, as (tokens, mean) points."""
    known = [(t, v) for t, v in zip(tokens, values, strict=True) if v is not None]
    reach = max(1, len(known) // 40)
    every = max(1, len(known) // 150)
    points = []
    for i in sorted({*range(0, len(known), every), len(known) - 1} if known else ()):
        near = [v for _, v in known[max(0, i - reach) : i + reach + 1]]
        points.append((float(known[i][0]), math.fsum(near) / len(near)))
    return points
