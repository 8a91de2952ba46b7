"""Pages of a judge check: `report.html` and `report.md`, all judges side by side."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from markupsafe import Markup

from tapir_exp.core.store import write_text_atomic
from tapir_exp.distillation.judge.check import JudgeCheck
from tapir_exp.evals.judge_comparison import JudgeComparison, compare_judges
from tapir_exp.evals.statistics import Interval
from tapir_exp.report import charts
from tapir_exp.report.charts.line_chart import Point, Series
from tapir_exp.report.templates import REPORT, render

MARKDOWN = "report.md"
TONES = ("accent", "warm", "good", "violet", "quiet")


def write_judge_check(directory: Path, checks: Sequence[JudgeCheck], data: str) -> Path:
    """Write both pages and return the path of the HTML page.

    Args:
        directory: Directory of the pages.
        checks: The judges.
        data: Name of the labelled pairs.
    """
    comparisons = _compare(checks)
    context = {
        "checks": checks,
        "data": data,
        "rows": _table(checks),
        "pairs": agreement_rows(comparisons),
        "favours": favour_rows(comparisons),
        "delta": checks[0].agreement.delta,
    }
    write_text_atomic(directory / MARKDOWN, render("judge_check.md.jinja", **context))
    charts_ = {"accuracy": Markup(_accuracy_chart(checks)), "curve": Markup(_reliability_chart(checks))}
    write_text_atomic(directory / REPORT, render("judge_check.html.jinja", **context, **charts_))
    return directory / REPORT


def _table(checks: Sequence[JudgeCheck]) -> list[tuple[str, str, list[str]]]:
    """Return the rows of the table: name, explanation, and a cell for each judge."""
    delta = f"{checks[0].agreement.delta:g}"
    rows: list[tuple[str, str, list[str]]] = []

    def add(name: str, explanation: str, cells: Sequence[str]) -> None:
        if any(cell != "–" for cell in cells):
            rows.append((name, explanation, list(cells)))

    figures = [check.agreement for check in checks]
    add("pairs", "with a label other than a tie", [str(f.rows) for f in figures])
    add("right, %", "prefers the answer that people prefer", [_percent(f.right) for f in figures])
    add("tie, %", "gap 0", [_percent(f.ties) for f in figures])
    add("wrong, %", "prefers the other answer", [_percent(f.wrong) for f in figures])
    add("unscored, %", "no readable verdict", [_percent(f.unscored) for f in figures])
    add("accuracy without ties, %", "right among those with a winner", [_percent(f.accuracy) for f in figures])
    add(f"right if |gap| > {delta}, %", "what a hard set rests on", [_percent(f.above_delta) for f in figures])
    add("both orders alike, %", "same verdict if the answers are swapped", [_percent(f.consistent) for f in figures])
    add("right in the given order, %", "ties are wrong", [_percent(f.accuracy_by_order[0]) for f in figures])
    add("right in the swapped order, %", "ties are wrong", [_percent(f.accuracy_by_order[1]) for f in figures])
    add("first answer wins, %", "over both orders; 50 without a bias", [_percent(f.first_wins) for f in figures])
    add("position bias, points", "gain by being shown first", [_number(f.position_bias) for f in figures])
    add("longer answer wins, %", "among those with a winner", [_percent(f.longer_wins) for f in figures])
    add("right if the longer is better, %", "with a winner", [_percent(f.right_if_longer) for f in figures])
    add("right if the shorter is better, %", "with a winner", [_percent(f.right_if_shorter) for f in figures])
    add("Cohen's κ with people", "over first, second and tie", [_number(f.kappa) for f in figures])
    noises = [check.noise for check in checks]
    add("reliability of the gaps", "share of their variance that is no noise, by both orders",
        ["–" if noise is None else f"{noise.reliability:.2f}" for noise in noises])  # fmt: skip
    add("noise of a gap, points", "standard deviation", ["–" if n is None else f"{n.noise**0.5:.2f}" for n in noises])
    add("calls", "without retries", [str(check.calls) if check.calls else "–" for check in checks])
    add("seconds per call", "wall time; cached calls take none", [_seconds(check) for check in checks])
    add("price", "of the paid calls", [_price(check) for check in checks])
    return rows


def _compare(checks: Sequence[JudgeCheck]) -> list[JudgeComparison]:
    """Return the comparison of every two judges on the same pairs."""
    found = (
        compare_judges(
            (first.name, second.name),
            ([pair.gap for pair in first.judged], [pair.gap for pair in second.judged]),
            [pair.origins for pair in first.judged],
        )
        for first, second in combinations(checks, 2)
        if len(first.judged) == len(second.judged)
    )
    return [comparison for comparison in found if comparison is not None]


def agreement_rows(comparisons: Sequence[JudgeComparison]) -> list[tuple[str, str, str, str]]:
    """Return for every two judges: their names, the share of equal verdicts in %, and kappa."""
    return [(each.first, each.second, _percent(each.same), f"{each.kappa:.2f}") for each in comparisons]


def favour_rows(comparisons: Sequence[JudgeComparison]) -> list[tuple[str, str, str, str, str]]:
    """Return for every two judges and each origin: names, origin, pairs, and the difference of its wins, in points."""
    return [
        (each.first, each.second, favour.origin, str(favour.pairs), _percent(favour.wins))
        for each in comparisons
        for favour in each.favours
    ]


def _accuracy_chart(checks: Sequence[JudgeCheck]) -> str:
    rows = [
        charts.Dot(
            check.name,
            check.agreement.right.mean,
            check.agreement.right.low,
            check.agreement.right.high,
            (),
            _percent(check.agreement.right),
        )
        for check in checks
    ]
    return charts.dots(rows, "Right verdicts, with 95 % intervals", "right verdicts, %")


def _reliability_chart(checks: Sequence[JudgeCheck]) -> str:
    """Draw the share of right verdicts by absolute gap; empty if no judge gives points."""
    graded = [check for check in checks if check.agreement.reliability]
    if not graded:
        return ""
    bounds = sorted({(b.low, b.high) for check in graded for b in check.agreement.reliability})
    series = [
        Series(
            check.name,
            tuple(
                Point(bounds.index((b.low, b.high)), b.right.mean, b.right.low, b.right.high)
                for b in check.agreement.reliability
            ),
            TONES[index % len(TONES)],
        )
        for index, check in enumerate(graded)
    ]
    description = "; ".join(
        f"{check.name}: " + ", ".join(f"gap {b.low:g} to {b.high:g}: {b.right.mean:.0%} of {b.rows}" for b in bins)
        for check in graded
        if (bins := check.agreement.reliability)
    )
    ticks = [f"≤ {high:g}" for _, high in bounds]
    return charts.lines(series, ticks, "Right verdicts by |gap|, %", description, width=charts.WIDE)


def _percent(interval: Interval | None) -> str:
    return "–" if interval is None else _show(interval, 100, 0)


def _number(interval: Interval | None) -> str:
    return "–" if interval is None else _show(interval, 1, 2)


def _show(interval: Interval, scale: float, digits: int) -> str:
    values = (interval.mean, interval.low, interval.high)
    mean, low, high = ("" if value is None else f"{scale * value:.{digits}f}".replace("-", "−") for value in values)
    return f"{mean} ({low} to {high})" if low and high else mean


def _seconds(check: JudgeCheck) -> str:
    return "–" if check.seconds is None or not check.calls else f"{check.seconds / check.calls:.2g}"


def _price(check: JudgeCheck) -> str:
    if check.spend is None:
        return "–"
    return "unknown" if check.spend.usd is None else f"${check.spend.usd:.4f}"
