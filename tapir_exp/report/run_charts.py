"""Charts of a run report."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tapir_exp.core.task_types import BOOSTED, TaskType
from tapir_exp.evals.statistics import Estimate, accuracy_by_task, macro_accuracy, wilson_interval
from tapir_exp.report import charts
from tapir_exp.report.run_view import RoundView, RunView
from tapir_exp.report.templates import RARE, student_name

NORMAL_95 = 1.96
"""Half the width of a 95 % normal interval, in standard errors."""
MACRO = "All families, macro"


@dataclass(frozen=True)
class RunCharts:
    """The charts of a run report as SVG; an empty text means that the run has nothing to draw.

    Attributes:
        gaps: One histogram of gaps per judged student.
        hard: Hard share and alpha by round.
        mix: Task mix of the seeds and of each round.
        mix_narrow: The same for a narrow window.
        loss: Training loss over tokens.
        loss_narrow: The same for a narrow window.
        benchmark: One panel per task type, and one for the macro accuracy.
    """

    gaps: list[Markup]
    hard: Markup
    mix: Markup
    mix_narrow: Markup
    loss: Markup
    loss_narrow: Markup
    benchmark: list[Markup]


def draw_charts(run: RunView) -> RunCharts:
    """Draw every chart of a run; the SVG needs no escaping."""
    return RunCharts(
        gaps=[Markup(svg) for svg in _gap_charts(run)],
        hard=Markup(_hard_chart(run)),
        mix=Markup(_mix_chart(run, charts.WIDE)),
        mix_narrow=Markup(_mix_chart(run, charts.NARROW)),
        loss=Markup(_loss_chart(run, charts.WIDE)),
        loss_narrow=Markup(_loss_chart(run, charts.NARROW)),
        benchmark=[Markup(svg) for svg in _benchmark_charts(run)],
    )


def _gap_charts(run: RunView) -> list[str]:
    panels = [
        (f"{student_name(r.number)} on {'the seeds' if r.number == 0 else f'the mix of round {r.number}'}", r.gaps)
        for r in run.rounds
        if r.gaps
    ]
    return charts.histograms(panels, run.manifest.delta)


def _hard_chart(run: RunView) -> str:
    judged = [r for r in run.rounds if r.gaps]
    if not judged:
        return ""
    # The share is often near 0 or 1, where a normal interval would leave the range.
    shares = {r.number: wilson_interval(r.hard(run.manifest.delta), len(r.gaps)) for r in judged}
    hard = tuple(charts.Point(number, share.mean, share.low, share.high) for number, share in shares.items())
    alphas = tuple(charts.Point(r.number, r.alpha) for r in run.rounds if r.alpha is not None)
    series = [charts.Series("hard", hard, "warm"), charts.Series("α", alphas, "accent")]
    description = "; ".join(f"{student_name(n)}: {charts.percent(share.mean)} hard" for n, share in shares.items())
    return charts.lines(series, _ticks(run), "Hard share and α, %", description, height=230)


def _ticks(run: RunView) -> list[str]:
    return [student_name(r.number) for r in run.rounds]


def _mix_chart(run: RunView, width: int) -> str:
    mixes = [r for r in run.rounds if r.mix]
    if not mixes:
        return ""
    seeds = Counter(label.task for label in run.labels.values() if label.task is not None)
    shares = [_shares(seeds), *(_shares(Counter(row.task for row in r.mix.values())) for r in mixes)]
    groups = _merge_rare([_group(task, shares, run.manifest.target) for task in run.tasks])
    names = ["seeds", *(f"mix of round {r.number}" for r in mixes)]
    return charts.grouped_bars(groups, names, "Share of each task type in the seeds, each mix and the target", width)


def _shares(counts: Mapping[TaskType | None, int] | Counter[TaskType]) -> dict[TaskType | None, float]:
    total = sum(counts.values()) or 1
    return {task: count / total for task, count in counts.items()}


def _group(
    task: TaskType, shares: Sequence[Mapping[TaskType | None, float]], target: Mapping[TaskType, float] | None
) -> charts.Group:
    values = tuple(share.get(task, 0.0) for share in shares)
    return charts.Group(task, values, target.get(task, 0.0) if target else None, _change(values), task in BOOSTED)


def _merge_rare(groups: Sequence[charts.Group]) -> list[charts.Group]:
    """Merge the types that are rare everywhere and not in the target; most are errors of the classifier."""
    rare = [group for group in groups if not group.target and max(group.values) < RARE]
    if len(rare) < 2:
        return list(groups)
    values = tuple(sum(column) for column in zip(*(group.values for group in rare), strict=True))
    # Without a target, e.g. for the natural mix, the merged row must not show a tick at zero.
    target = None if rare[0].target is None else 0.0
    merged = charts.Group(f"{len(rare)} rare types", values, target, _change(values))
    return [*(group for group in groups if group not in rare), merged]


def _change(values: Sequence[float]) -> str:
    return f"{values[0] * 100:.1f} → {values[-1] * 100:.1f} %"


def _loss_chart(run: RunView, width: int) -> str:
    return charts.loss_curves([_curve(r) for r in run.rounds], "Training loss over tokens", width)


def _curve(r: RoundView) -> charts.FitCurve:
    return charts.FitCurve(
        name=student_name(r.number) + (f" · α = {r.alpha:.2g}" if r.alpha is not None else " · seeds"),
        tokens=tuple(step.tokens for step in r.steps),
        loss=tuple(step.loss for step in r.steps),
        hard=tuple(step.loss_hard for step in r.steps),
        # S_0 has no hard set: its rest is the whole loss, which would be drawn twice.
        rest=tuple(step.loss_rest if r.alpha is not None else None for step in r.steps),
    )


def _benchmark_charts(run: RunView) -> list[str]:
    if not run.rounds[0].benchmark:
        return []
    points: defaultdict[str, list[charts.Point]] = defaultdict(list)
    for r in run.rounds:
        points[MACRO].append(_point(r.number, macro_accuracy(r.benchmark)))
        for task, estimate in accuracy_by_task(r.benchmark).items():
            points[task].append(_point(r.number, estimate))
    names = [MACRO, *(task for task in run.tasks if task in points)]
    return [_benchmark_panel(name, tuple(points[name]), _ticks(run)) for name in names]


def _benchmark_panel(name: str, points: tuple[charts.Point, ...], ticks: Sequence[str]) -> str:
    # The same colours as in the other charts: warm for what TAPIR boosts.
    tone = "ink" if name == MACRO else "warm" if name in BOOSTED else "accent"
    description = ", ".join(f"{tick}: {charts.percent(p.y)}" for tick, p in zip(ticks, points, strict=True))
    series = [charts.Series(name, points, tone)]
    return charts.lines(series, ticks, name, description, width=200, height=136, small=True)


def _point(number: int, estimate: Estimate) -> charts.Point:
    # Estimates of one problem have no error and get no band.
    reach = NORMAL_95 * (estimate.error or 0.0)
    return charts.Point(number, estimate.mean, max(0.0, estimate.mean - reach), min(1.0, estimate.mean + reach))
