"""The curve of accuracy over a numeric setting: one line, or one for each value of the other columns."""

from collections import defaultdict

from tapir_exp.report import charts
from tapir_exp.report.sweep.comparison import ComparisonRow, Sweep
from tapir_exp.report.sweep.grouping import to_number

MIN_VALUES = 3
"""Fewer values are shown by the plot of the rows alone."""
TONES = ("accent", "warm", "good", "violet")


def draw_curve(sweep: Sweep) -> str:
    """Draw accuracy with its intervals over the values of the only numeric column; empty if there is none.

    The values are equally far apart, since thresholds are often spaced evenly and learning rates by factors.
    """
    index = _numeric_column(sweep)
    if index is None:
        return ""
    lines: defaultdict[str, list[tuple[float, ComparisonRow]]] = defaultdict(list)
    for row in sweep.rows:
        values = list(sweep.settings[row.label])
        lines[" · ".join(values[:index] + values[index + 1 :])].append((float(values[index]), row))
    ticks = sorted({value for line in lines.values() for value, _ in line})
    series = [
        charts.Series(name or "accuracy", tuple(_points(line, ticks)), TONES[number % len(TONES)])
        for number, (name, line) in enumerate(lines.items())
    ]
    series = [line for line in series if line.points]
    if len(lines) > len(TONES) or not series:
        return ""
    title = f"Macro accuracy over {sweep.columns[index]}, %, with 95 % t intervals"
    description = "; ".join(
        f"{line.name}: " + ", ".join(f"{ticks[int(p.x)]:g}: {p.y * 100:.1f} %" for p in line.points) for line in series
    )
    return charts.lines(series, [f"{value:g}" for value in ticks], title, description, width=charts.WIDE, height=260)


def _numeric_column(sweep: Sweep) -> int | None:
    """Return the index of the column with enough numeric values; None if there is none, or more than one."""
    found = []
    for index in range(len(sweep.columns)):
        numbers = {to_number(values[index]) for values in sweep.settings.values()}
        if None not in numbers and len(numbers) >= MIN_VALUES:
            found.append(index)
    return found[0] if len(found) == 1 else None


def _points(line: list[tuple[float, ComparisonRow]], ticks: list[float]) -> list[charts.Point]:
    return [
        charts.Point(ticks.index(value), row.accuracy.mean, row.accuracy.low, row.accuracy.high)
        for value, row in sorted(line, key=lambda pair: pair[0])
        if row.accuracy
    ]
