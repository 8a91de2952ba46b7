"""Accuracy by round: the macro accuracy of S_0 to S_R in each arm, over its training seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tapir_exp.evals.statistics import Interval
from tapir_exp.report import charts
from tapir_exp.report.sweep.comparison import ACCURACY, BASELINE, interval_of
from tapir_exp.report.sweep.formatting import cell_mean
from tapir_exp.report.sweep.jobs import Job
from tapir_exp.report.templates import student_name


@dataclass(frozen=True)
class AccuracyByRound:
    """Macro accuracy of the students of an arm, as shares.

    Attributes:
        label: Arm or settings.
        accuracies: One per student, as many as the longest arm has; None if no finished job has a benchmark of it.
        missing_reason: Why an accuracy is None; empty if none is.
    """

    label: str
    accuracies: tuple[Interval | None, ...]
    missing_reason: str


def accuracies_by_round(arms: Mapping[str, Sequence[Job]]) -> list[AccuracyByRound]:
    """Average the accuracy of each student over the finished jobs of each arm."""
    # All panels and rows have the same students, so that arms with fewer rounds line up with the others.
    students = max((len(job.rounds) for jobs in arms.values() for job in jobs if job.finished), default=0)
    rows = []
    for label, jobs in arms.items():
        by_student = [[job.metric(number, ACCURACY) for job in jobs] for number in range(students)]
        accuracies = tuple(interval_of(value for value in values if value is not None) for values in by_student)
        rows.append(AccuracyByRound(label, accuracies, _missing_reason(jobs, accuracies)))
    return rows


def _missing_reason(jobs: Sequence[Job], accuracies: Sequence[Interval | None]) -> str:
    """Return why an arm lacks accuracies; empty if it lacks none."""
    last = max((len(job.rounds) - 1 for job in jobs if job.finished), default=None)
    if last is None:
        return "no finished job"
    if None in accuracies[: last + 1]:
        return "benchmark not run"
    # Arms such as vanilla SFT have fewer students than the longest arm; these cells are empty by design.
    if last + 1 < len(accuracies):
        return f"ends with {student_name(last)}"
    return ""


def draw_panels(rows: Sequence[AccuracyByRound], baseline: str | None = BASELINE) -> list[str]:
    """Draw a small chart for each arm that has an accuracy, on the same axes and over the baseline's line."""
    background = [_series(row, "quiet") for row in rows if row.label == baseline]
    return [_draw_panel(row, background, row.label == baseline) for row in rows if any(row.accuracies)]


def _draw_panel(row: AccuracyByRound, background: Sequence[charts.Series], is_baseline: bool) -> str:
    ticks = [student_name(number) for number in range(len(row.accuracies))]
    values = [(tick, accuracy) for tick, accuracy in zip(ticks, row.accuracies, strict=True) if accuracy]
    description = ", ".join(f"{tick}: {cell_mean(accuracy)} %" for tick, accuracy in values)
    # The baseline's panel shows its line once, not over its own background.
    series = [_series(row, "warm")] if is_baseline else [*background, _series(row, "accent")]
    return charts.lines(series, ticks, row.label, description, width=200, height=136, small=True)


def _series(row: AccuracyByRound, tone: str) -> charts.Series:
    """Return the line of an arm; a quiet one has no intervals and no label."""
    accuracies = [(number, interval) for number, interval in enumerate(row.accuracies) if interval is not None]
    if tone == "quiet":
        points = tuple(charts.Point(number, interval.mean) for number, interval in accuracies)
        return charts.Series(row.label, points, tone, labelled=False)
    return charts.Series(row.label, tuple(_point(number, interval) for number, interval in accuracies), tone)


def _point(number: int, interval: Interval) -> charts.Point:
    """Return the point of a student; a t interval is drawn within 0 and 1, which it may exceed."""
    if interval.low is None or interval.high is None:
        return charts.Point(number, interval.mean)
    return charts.Point(number, interval.mean, max(0.0, interval.low), min(1.0, interval.high))
