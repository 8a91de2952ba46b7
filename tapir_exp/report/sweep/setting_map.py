"""Heat maps of accuracy over two numeric settings: one, or one for each value of the other columns."""

from collections import defaultdict
from collections.abc import Sequence

from tapir_exp.report.charts.heat_chart import heat_map
from tapir_exp.report.sweep.comparison import ComparisonRow, Sweep
from tapir_exp.report.sweep.formatting import cell_accuracy
from tapir_exp.report.sweep.grouping import to_number

MIN_VALUES, MAX_VALUES = 2, 12
"""Values of a setting; a map with more would be wider than a page."""
MIN_CELLS = 6
MOST_MAPS = 4


def draw_maps(sweep: Sweep) -> list[str]:
    """Draw accuracy over the two numeric columns of a sweep; none if it has fewer or more than two of them."""
    pair = _numeric_columns(sweep)
    if pair is None:
        return []
    maps: defaultdict[str, list[ComparisonRow]] = defaultdict(list)
    for row in sweep.rows:
        others = [value for index, value in enumerate(sweep.settings[row.label]) if index not in pair]
        maps[" · ".join(others)].append(row)
    return [_draw(sweep, rows, pair, name) for name, rows in maps.items()] if len(maps) <= MOST_MAPS else []


def _draw(sweep: Sweep, rows: Sequence[ComparisonRow], pair: tuple[int, int], name: str) -> str:
    names = (sweep.columns[pair[0]], sweep.columns[pair[1]])
    cells, strong = {}, None
    for row in rows:
        values = sweep.settings[row.label]
        place = (_text(values[pair[0]]), _text(values[pair[1]]))
        if row.accuracy is not None:
            cells[place] = (row.accuracy.mean, cell_accuracy(row.accuracy))
        strong = place if row.label == sweep.baseline else strong
    places = [tuple(_text(sweep.settings[row.label][index]) for index in pair) for row in rows]
    lines, columns = (sorted({place[side] for place in places}, key=float) for side in (0, 1))
    title = f"Macro accuracy over {names[0]} and {names[1]}{f', {name}' if name else ''}, % ± 95 % t interval"
    described = "; ".join(
        f"{names[0]} {line}, {names[1]} {column}: {text}" for (line, column), (_, text) in cells.items()
    )
    return heat_map(lines[::-1], columns, cells, names, title, described, strong)


def _numeric_columns(sweep: Sweep) -> tuple[int, int] | None:
    """Return the indices of the two numeric columns whose values fit on a map; None if there are not two."""
    found = []
    for index in range(len(sweep.columns)):
        numbers = {to_number(values[index]) for values in sweep.settings.values()}
        if None not in numbers and MIN_VALUES <= len(numbers) <= MAX_VALUES:
            found.append((index, len(numbers)))
        elif None not in numbers and len(numbers) > MAX_VALUES:
            return None
    # Values that a search has drawn are hardly ever on a grid, and its page has other charts.
    if len(found) != 2 or found[0][1] * found[1][1] < MIN_CELLS:
        return None
    (first, some), (second, others) = found
    crossed = {(values[first], values[second]) for values in sweep.settings.values()}
    return (first, second) if 2 * len(crossed) >= some * others else None


def _text(value: str) -> str:
    """Return a value in the form that equal numbers share: 2 and 2.0 are one row."""
    return f"{to_number(value):g}"
