"""Round by round: the macro accuracy of S_0 to S_R in every arm, over its training seeds."""

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
    """The students of an arm in their order, as many as any arm has.

    accuracies: None for a student that no finished job has, or has no benchmark of.
    why: what is to be known of a gap; empty where there is none.
    """

    label: str
    accuracies: tuple[Interval | None, ...]
    reason: str


def accuracies_by_round(arms: Mapping[str, Sequence[Job]]) -> list[AccuracyByRound]:
    """The course of every arm. Accuracies are shares."""
    students = max((len(job.rounds) for jobs in arms.values() for job in jobs if job.finished), default=0)
    return [_course(label, jobs, students) for label, jobs in arms.items()]


def _course(label: str, jobs: Sequence[Job], students: int) -> AccuracyByRound:
    found = [[job.figure_of(number, ACCURACY) for job in jobs] for number in range(students)]
    accuracies = tuple(interval_of(value for value in values if value is not None) for values in found)
    return AccuracyByRound(label, accuracies, _why(jobs, accuracies))


def _why(jobs: Sequence[Job], accuracies: Sequence[Interval | None]) -> str:
    last = max((len(job.rounds) - 1 for job in jobs if job.finished), default=None)
    if last is None:
        return "no finished job"
    if None in accuracies[: last + 1]:
        return "a benchmark was not run"
    if last + 1 < len(accuracies):
        return f"ends with {student_name(last)}"
    return ""


def panels(found: Sequence[AccuracyByRound]) -> list[str]:
    """A small chart for every arm that has anything to draw, all on the same axes and before the baseline's line."""
    behind = [_line(course, "quiet") for course in found if course.label == BASELINE]
    return [_panel(course, behind) for course in found if any(course.accuracies)]


def _panel(course: AccuracyByRound, behind: Sequence[charts.Series]) -> str:
    ticks = [student_name(number) for number in range(len(course.accuracies))]
    told = ", ".join(f"{tick}: {cell_mean(i)} %" for tick, i in zip(ticks, course.accuracies, strict=True) if i)
    series = [_line(course, "warm")] if course.label == BASELINE else [*behind, _line(course, "accent")]
    return charts.lines(series, ticks, course.label, told, width=200, height=136, small=True)


def _line(course: AccuracyByRound, tone: str) -> charts.Series:
    """The line of an arm; a quiet one has neither intervals nor a label."""
    known = [(number, i) for number, i in enumerate(course.accuracies) if i is not None]
    if tone == "quiet":
        points = tuple(charts.Point(number, i.mean) for number, i in known)
        return charts.Series(course.label, points, tone, labelled=False)
    return charts.Series(course.label, tuple(_point(number, i) for number, i in known), tone)


def _point(number: int, interval: Interval) -> charts.Point:
    """A t interval may reach beyond what a share can be; it is drawn up to there."""
    if interval.low is None or interval.high is None:
        return charts.Point(number, interval.mean)
    return charts.Point(number, interval.mean, max(0.0, interval.low), min(1.0, interval.high))
