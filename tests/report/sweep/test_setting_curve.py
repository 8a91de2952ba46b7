"""A numeric setting is drawn as a curve over its values, one line for each value of the other columns."""

from pathlib import Path

import pytest

from tapir_exp.evals.statistics import Interval
from tapir_exp.report.sweep.comparison import ComparisonRow, Sweep, interval_of
from tapir_exp.report.sweep.csv_table import to_csv
from tapir_exp.report.sweep.setting_curve import draw_curve
from tapir_exp.report.sweep.setting_map import draw_maps


def sweep(columns: list[str], *rows: tuple[str, ...]) -> Sweep:
    """Return a sweep with one row for each tuple of settings."""
    settings = {" · ".join(row): row for row in rows}
    compared = [
        ComparisonRow(label, {}, {}, Interval(0.5 + number / 100, 0.4, 0.6, 3), {}, None, None, 1, 1)
        for number, label in enumerate(settings)
    ]
    return Sweep(Path("sweep"), columns, settings, None, {label: [] for label in settings}, compared, [], len(compared))


@pytest.mark.parametrize(
    ("given", "lines", "title"),
    [
        (sweep(["delta"], ("3",), ("1.0",), ("1e+30",)), 1, "Macro accuracy over delta"),
        (sweep(["arm", "delta"], *((arm, str(n)) for arm in ("a", "b") for n in range(3))), 2, "over delta"),
        (sweep(["delta", "arm"], *((str(n), arm) for arm in ("a", "b") for n in range(3))), 2, "over delta"),
        (sweep(["delta"], ("1",), ("2",)), 0, ""),
        (sweep(["teacher"], ("a",), ("b",), ("c",)), 0, ""),
        (sweep(["delta", "alpha"], *((str(m), str(n)) for m in range(3) for n in range(3))), 0, ""),
    ],
    ids=["numbers", "arm and numbers", "numbers and arm", "two numbers", "choices", "two settings"],
)
def test_curve_has_a_line_for_each_value_of_the_other_columns(given: Sweep, lines: int, title: str) -> None:
    chart = draw_curve(given)
    assert chart.count("stroke") == lines
    assert title in chart


def test_values_of_the_curve_are_in_numeric_order() -> None:
    chart = draw_curve(sweep(["delta"], ("10",), ("9",), ("1e-30",)))
    assert chart.index(">1e-30<") < chart.index(">9<") < chart.index(">10<")


def test_csv_has_a_column_for_each_setting_and_no_formula() -> None:
    header, *lines = to_csv(sweep(["arm", "delta"], ("=1+1", "-1"), ("lion", "1e+30"))).splitlines()
    assert header.startswith("arm,delta,jobs,")
    assert lines[0].startswith("'=1+1,-1,")
    assert lines[1].startswith("lion,1e+30,")


@pytest.mark.parametrize("values", [[0.99, 1.0, 0.8], [0.0, 0.01, 0.3], [0.5]])
def test_interval_of_shares_stays_within_0_and_1(values: list[float]) -> None:
    interval = interval_of(values)
    assert interval is not None
    assert interval.low is None or 0 <= interval.low <= interval.mean
    assert interval.high is None or interval.mean <= interval.high <= 1


GRID = [(str(delta), str(alpha)) for delta in (1, 2, 10) for alpha in ("0.5", "1e-1")]


@pytest.mark.parametrize(
    ("given", "maps"),
    [
        (sweep(["delta", "alpha"], *GRID), 1),
        (sweep(["arm", "delta", "alpha"], *((arm, *pair) for arm in ("a", "b") for pair in GRID)), 2),
        (sweep(["arm", "delta", "alpha"], *((str(arm), *pair) for arm in "abcde" for pair in GRID)), 0),
        (sweep(["delta"], ("1",), ("2",), ("3",)), 0),
        (sweep(["delta", "alpha"], *((str(n), str(n / 7)) for n in range(8))), 0),
        (sweep(["delta", "alpha"], *((str(n), "1" if n % 2 else "2") for n in range(13))), 0),
        (sweep(["a", "b", "c"], *(("1" if n % 2 else "2", *pair) for n in (0, 1) for pair in GRID)), 0),
    ],
    ids=["two", "two by arm", "too many arms", "one", "no grid", "too many values", "three"],
)
def test_two_numeric_settings_are_a_heat_map(given: Sweep, maps: int) -> None:
    assert len(draw_maps(given)) == maps


def test_heat_map_is_in_numeric_order_with_dashes_for_missing_cells() -> None:
    (chart,) = draw_maps(sweep(["delta", "alpha"], *GRID[:-1]))
    assert chart.index(">0.1<") < chart.index(">0.5<")
    assert chart.index(">10<") < chart.index(">2<") < chart.index(">1<")  # the smallest value is at the bottom
    assert (chart.count("<rect"), chart.count(">–<")) == (5, 1)
    assert "delta 1, alpha 0.5: 50.0 ± 10.0" in chart
