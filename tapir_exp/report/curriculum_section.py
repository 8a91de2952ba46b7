"""Rounds of the curriculum: learning rate, origin of the rows, calls of the teacher, gaps, and the judged student."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tapir_exp.report.run_view import RoundView, RunView
from tapir_exp.report.templates import student_name

JUDGED = {"annealed": "annealed", "average": "average"}
"""Names of the weights of `sft.judged_student` that differ from the trained ones."""


@dataclass(frozen=True)
class CurriculumRow:
    """Row of the table; a figure is None if the run does not have it. Shares are 0 to 1.

    Attributes:
        student: Name of the student.
        rate_start: Learning rate of the first step; a warm-up starts low.
        rate_peak: Largest learning rate.
        rate_end: Learning rate of the last step.
        alpha: Weight of the hard set.
        new: Rows of the mix that were written for the round.
        drawn: Rows drawn from the pool.
        replayed: Rows of earlier mixes.
        written: Accepted rows that the teacher wrote for the round, in the mix or not.
        easy: Rows dropped because the student answers them.
        calls: Calls of the teacher: responses to seeds, expansions, first refinements of a row.
        calls_per_hard_row: Expansion calls for each kept hard row.
        fresh_share: Share of the new rows that are hard for the student of the round before.
        trained_share: Share of the new rows that are hard for the student that was trained on them.
        judged: Rows that the student was judged on, and its weights if they are not those of the fit; empty if none.
    """

    student: str
    rate_start: float | None
    rate_peak: float | None
    rate_end: float | None
    alpha: float | None
    new: int | None
    drawn: int | None
    replayed: int | None
    written: int | None
    easy: int | None
    calls: int | None
    calls_per_hard_row: float | None
    fresh_share: float | None
    trained_share: float | None
    judged: str


def curriculum_rows(run: RunView) -> list[CurriculumRow]:
    """Return the table of a run, S_0 first; empty for a run without rounds."""
    if not run.manifest.alphas:
        return []
    return [_row(run, of_round, metrics) for of_round, metrics in zip(run.rounds, run.metrics, strict=True)]


def _row(run: RunView, of_round: RoundView, metrics: Mapping[str, Any]) -> CurriculumRow:
    rates = [step.learning_rate for step in of_round.steps]
    return CurriculumRow(
        student=student_name(of_round.number),
        rate_start=rates[0] if rates else None,
        rate_peak=max(rates, default=None),
        rate_end=rates[-1] if rates else None,
        alpha=of_round.alpha,
        new=metrics.get("mix/rows_new"),
        drawn=metrics.get("mix/rows_drawn"),
        replayed=metrics.get("mix/rows_replayed"),
        written=metrics.get("teacher/rows") if of_round.number else None,
        easy=metrics.get("expansion/easy"),
        calls=metrics.get("teacher/calls"),
        calls_per_hard_row=metrics.get("expansion/calls_per_hard_row"),
        fresh_share=metrics.get("fresh_gap/hard_share"),
        trained_share=metrics.get("trained_gap/hard_share"),
        judged=_judged(run, of_round.number),
    )


def _judged(run: RunView, number: int) -> str:
    """Return what the student was judged on, with the name of its weights; empty if it was not judged."""
    judged_on = []
    if f"verdicts-{number}" in run.artifacts:
        judged_on.append("seeds" if number == 0 else "its mix")
    if f"fresh_verdicts-{number + 1}" in run.artifacts:
        judged_on.append("new rows")
    sft = run.config.get("sft") or {}
    weights = JUDGED.get(str(sft.get("judged_student"))) if number else None
    return ", ".join([*judged_on, *([weights] if weights and judged_on else [])])
