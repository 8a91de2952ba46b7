"""Charts: values, accessibility and layout."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from tapir_exp.report import charts

SVG = "{http://www.w3.org/2000/svg}"
NASTY = "<b>&\"'"


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in parse(svg).iter(f"{SVG}text")]


def bars(svg: str, style: str) -> list[float]:
    """Return the left edges of the bars of a style."""
    return [float(node.get("x", "")) for node in parse(svg).iter(f"{SVG}rect") if node.get("class") == style]


def every_chart(name: str = "name") -> list[str]:
    point = charts.Point(0, 0.5, 0.4, 0.6)
    fit = charts.FitCurve(name, (10, 20), (2.0, 1.0), (None, 1.5), (1.8, None))
    return [
        *charts.histograms([(name, [0.0, 3.0]), (f"{name}, later", [1.0])], 2),
        charts.grouped_bars([charts.Group(name, (0.1, 0.2), 0.15, "0.1")], [name, "mix"], name),
        charts.lines([charts.Series(name, (point,))], ["S"], name, name),
        charts.loss_curves([fit], name),
        charts.dots([charts.Dot(name, 0.5, 0.4, 0.6, (0.45, 0.55), "50")], name, name),
    ]


def test_charts_are_well_formed_and_described() -> None:
    for svg in every_chart(NASTY):
        root = parse(svg)
        title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
        assert root.get("role") == "img"
        assert title is not None
        assert title.text
        assert title.get("id") == root.get("aria-labelledby")
        assert description is not None
        assert description.text
        assert description.get("id") == root.get("aria-describedby")
        assert float(root.get("viewBox", "").split()[2]) > 0
        assert root.get("width") is None


def test_charts_of_one_page_have_different_ids() -> None:
    ids = re.findall(r' id="([^"]+)"', "".join([*every_chart("a"), *every_chart("b")]))
    assert len(ids) == len(set(ids))


def test_histograms_count_a_gap_at_the_threshold_as_easy() -> None:
    (svg,) = charts.histograms([("S", [2.0, 2.0, 2.0, 2.01])], 2)
    assert "25 % hard" in texts(svg)
    (easy,), (hard,) = bars(svg, "f-quiet"), bars(svg, "f-warm")
    threshold = next(float(n.get("x1", "")) for n in parse(svg).iter(f"{SVG}line") if n.get("class") == "mark")
    assert easy < threshold < hard


def test_histograms_share_their_axes() -> None:
    one, other = charts.histograms([("a", [-3.0, 0.2]), ("b", [7.5, 0.2, 0.2, 0.2])], 2)
    heights = [max(float(node.get("height", "")) for node in parse(svg).iter(f"{SVG}rect")) for svg in (one, other)]
    # The axis of the rows is logarithmic and begins below 1: one row can be seen, three are not three times as high.
    assert heights[0] / heights[1] == pytest.approx(math.log(1 / 0.6) / math.log(3 / 0.6), abs=0.01)
    assert "0 to 0.5: 3 rows, 75 %" in other
    ticks = [[t for t in texts(svg) if re.fullmatch(r"−?\d+", t)] for svg in (one, other)]
    assert ticks[0] == ticks[1]


def test_histograms_without_gaps_are_empty() -> None:
    assert charts.histograms([("a", [])], 2) == []


@pytest.mark.parametrize("positions", [[50, 50, 50], [0, 1, 2], [99, 98, 100], [10, 60, 61], [30], []])
def test_spread_keeps_distance_order_and_bounds(positions: list[float]) -> None:
    moved = charts.spread(positions, 15, 0, 100)
    assert all(0 <= position <= 100 for position in moved)
    ordered = sorted(moved)
    assert all(b - a >= 15 - 1e-9 for a, b in pairwise(ordered))
    for i, one in enumerate(positions):
        assert all((one < other) <= (moved[i] < moved[j]) for j, other in enumerate(positions))


def test_spread_keeps_distant_positions() -> None:
    assert charts.spread([80, 10, 40], 15, 0, 100) == [80, 10, 40]


def test_lines_move_overlapping_labels_apart() -> None:
    series = [charts.Series(n, (charts.Point(0, 0.1), charts.Point(1, 0.5))) for n in ("one", "two", "three")]
    svg = charts.lines(series, ["S₀", "S₁"], "title", "description")
    heights = sorted(float(n.get("y", "")) for n in parse(svg).iter(f"{SVG}text") if (n.text or "").startswith("50 % "))
    assert len(heights) == 3
    assert min(b - a for a, b in pairwise(heights)) >= 14.9


def test_grouped_bars_scale_with_values_and_show_the_target() -> None:
    group = charts.Group("Math", (0.05, 0.10, 0.20), 0.20, "5.0 → 20.0 %")
    root = parse(charts.grouped_bars([group], ["seeds", "mix 1", "mix 2"], "mix"))
    rects = [n for n in root.iter(f"{SVG}rect") if n.get("height") == "6" and n.get("width") != "11"]
    widths = [float(n.get("width", "")) for n in rects]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.02)
    assert widths[2] == pytest.approx(4 * widths[0], abs=0.02)
    target = [n for n in root.iter(f"{SVG}line") if n.get("class") == "target"][-1]
    assert float(target.get("x1", "")) == pytest.approx(float(rects[0].get("x", "")) + widths[2], abs=0.02)


def test_loss_curves_of_fits_follow_each_other() -> None:
    fits = [
        charts.FitCurve("S₀", (100, 200), (2.0, 1.0), (None, None), (None, None)),
        charts.FitCurve("S₁", (100, 600), (2.0, 1.0), (2.0, 1.0), (1.0, 0.5)),
    ]
    svg = charts.loss_curves(fits, "loss")
    box_left, box_right = 40, charts.WIDE - 62
    (mark,) = [n for n in parse(svg).iter(f"{SVG}line") if n.get("class") == "round"]
    assert float(mark.get("x1", "")) == pytest.approx(box_left + (box_right - box_left) * 200 / 800, abs=0.01)
    assert {"loss", "hard", "rest"} <= set(texts(svg))


@pytest.mark.parametrize("last", [4.5, 1.0, 0.05, 0.001])
def test_loss_curves_have_ticks_for_any_range(last: float) -> None:
    steps = tuple(range(1, 101))
    losses = tuple(5.0 * (last / 5.0) ** (i / 100) for i in steps)
    svg = charts.loss_curves([charts.FitCurve("S", steps, losses, (None,) * 100, losses)], "loss")
    ticks = [n for n in parse(svg).iter(f"{SVG}text") if n.get("class") == "end faint"]
    assert 2 <= len(ticks) <= 16


def test_loss_curves_without_steps_are_empty() -> None:
    assert charts.loss_curves([charts.FitCurve("S₀", (), (), (), ())], "loss") == ""


def test_smooth_skips_missing_values_and_keeps_the_mean() -> None:
    assert charts.smooth([1, 2, 3, 4], [1.0, None, 3.0, None]) == [(1.0, 2.0), (3.0, 2.0)]
    flat = charts.smooth(range(1000), [0.7] * 1000)
    assert len(flat) < 200
    assert flat[-1][0] == 999.0
    assert flat[-1][1] == pytest.approx(0.7)


def test_dots_without_interval_have_no_bar() -> None:
    rows = [charts.Dot("tapir", 0.8, None, None, (0.8,), "80.0"), charts.Dot("gone", None, None, None, (), "-")]
    root = parse(charts.dots(rows, "title", "axis"))
    assert not [n for n in root.iter(f"{SVG}line") if "interval" in n.get("class", "")]
    assert len([n for n in root.iter(f"{SVG}circle") if "ring" in n.get("class", "")]) == 1


def test_percent_rounds_neither_to_0_nor_to_100() -> None:
    shown = [charts.percent(share) for share in (0.0, 0.001, 0.5, 0.999, 1.0)]
    assert shown == ["0 %", "<1 %", "50 %", ">99 %", "100 %"]


def test_compact_formats_counts() -> None:
    assert [charts.compact(n) for n in (950, 1200, 12_000, 2_000_000)] == ["950", "1.2k", "12k", "2M"]


@pytest.mark.parametrize(("strong", "marked"), [(None, 0), (0, 0), (2, 2)])
def test_dots_mark_the_mean_of_the_strong_row(strong: int | None, marked: int) -> None:
    means = (0.2, 0.5, 0.8)
    rows = [charts.Dot(str(i), mean, None, None, (), "", strong=i == strong) for i, mean in enumerate(means)]
    root = parse(charts.dots(rows, "title", "axis"))
    (mark,) = (line for line in root.iter(f"{SVG}line") if line.get("class") == "mark")
    rings = [node.get("cx") for node in root.iter(f"{SVG}circle") if "ring" in node.get("class", "")]
    assert mark.get("x1") == rings[marked]


def test_dots_clip_intervals_to_shares() -> None:
    rows = [charts.Dot("tapir", 0.01, -0.9, 0.92, (0.0, 0.02), ""), charts.Dot("lion", 0.99, 0.1, 1.8, (), "")]
    svg = charts.dots(rows, "title", "axis")
    axis = next(line for line in parse(svg).iter(f"{SVG}line") if line.get("class") == "axis")
    for line in (line for line in parse(svg).iter(f"{SVG}line") if "interval" in line.get("class", "")):
        assert float(axis.get("x1", "")) <= float(line.get("x1", "")) < float(line.get("x2", ""))
        assert float(line.get("x2", "")) <= float(axis.get("x2", ""))
