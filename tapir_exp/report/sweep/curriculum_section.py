"""Rounds of each arm: rows, teacher rows and calls, and the hard share of new rows before and after the fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from tapir_exp.report.sweep.comparison import ACCURACY
from tapir_exp.report.sweep.jobs import Job

FIGURES = (
    "curriculum/alpha",
    "mix/rows_new",
    "mix/rows_drawn",
    "mix/rows_replayed",
    "teacher/rows",
    "teacher/rows_total",
    "teacher/calls_total",
    "fresh_gap/hard_share",
    "trained_gap/hard_share",
    ACCURACY,
)
"""Metrics of the columns."""


@dataclass(frozen=True)
class ArmRound:
    """Means over the finished jobs of an arm after one round.

    Attributes:
        label: Arm or settings.
        student: Number of the student.
        figures: Mean of each of `FIGURES` over the jobs that have it; None if none has.
    """

    label: str
    student: int
    figures: Mapping[str, float | None]


def rounds_of_arms(arms: Mapping[str, Sequence[Job]]) -> list[list[ArmRound]]:
    """Return the rounds of each arm that has any; S_0 is left out."""
    rows = []
    for label, jobs in arms.items():
        students = max((len(job.rounds) for job in jobs if job.finished), default=0)
        rounds = [ArmRound(label, number, _means(jobs, number)) for number in range(1, students)]
        rows += [rounds] if rounds else []
    return rows


def _means(jobs: Sequence[Job], student: int) -> dict[str, float | None]:
    values = {name: [value for job in jobs if (value := job.metric(student, name)) is not None] for name in FIGURES}
    return {name: fmean(found) if found else None for name, found in values.items()}
