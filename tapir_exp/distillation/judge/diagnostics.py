"""How far a judge can be trusted: what its verdicts tell about itself. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from statistics import StatisticsError, correlation, fmean, stdev

from tapir_exp.core.records import BOTH_ORDERS, Verdict


@dataclass(frozen=True)
class Lengths:
    """Characters of the two responses to one instruction."""

    teacher: int
    student: int

    @property
    def log_ratio(self) -> float:
        """How much longer the teacher's is, on a logarithmic scale; an empty response counts as one character."""
        return log(max(1, self.teacher) / max(1, self.student))


@dataclass(frozen=True)
class JudgeDiagnostics:
    """Figures about a judge; None where its verdicts tell nothing about one.

    unscored: share of the rows without a verdict. ties: share of the scored rows with gap 0.
    flips: rows, scored in both orders, in which the two orders name different winners; flip_share: their share.
    position_bias: points that an answer gains over the other by being shown first, the mean over these rows of half
    the difference between the two orders' gaps; position_bias_se: its standard error.
    longer_wins: share of the rows with a winner and a longer answer in which that one wins.
    length_correlation: of the gap and the logarithm of the ratio of lengths, teacher over student (Pearson).
    """

    unscored: float
    ties: float | None
    flips: int
    flip_share: float | None
    position_bias: float | None
    position_bias_se: float | None
    longer_wins: float | None
    length_correlation: float | None


def diagnose_judge(verdicts: Sequence[Verdict], lengths: Mapping[str, Lengths]) -> JudgeDiagnostics:
    """The figures; `lengths` holds the responses' by row id."""
    gaps = {verdict.id: verdict.gap for verdict in verdicts if verdict.gap is not None}
    leads = [lead for verdict in verdicts if (lead := _leads(verdict)) is not None]
    biases = [(first - second) / 2 for first, second in leads]
    flips = sum(first * second < 0 for first, second in leads)
    decided = [(gap > 0) == (lengths[row].log_ratio > 0) for row, gap in gaps.items() if gap and lengths[row].log_ratio]
    return JudgeDiagnostics(
        unscored=1 - len(gaps) / len(verdicts) if verdicts else 0.0,
        ties=_mean([gap == 0 for gap in gaps.values()]),
        flips=flips,
        flip_share=flips / len(leads) if leads else None,
        position_bias=_mean(biases),
        position_bias_se=stdev(biases) / sqrt(len(biases)) if len(biases) > 1 else None,
        longer_wins=_mean(decided),
        length_correlation=_correlation([lengths[row].log_ratio for row in gaps], list(gaps.values())),
    )


def _leads(verdict: Verdict) -> tuple[float, float] | None:
    """By how much the teacher leads where it is shown first, and where it is shown second."""
    leads = {
        ballot.order: ballot.teacher - ballot.student
        for ballot in verdict.replies
        if ballot.teacher is not None and ballot.student is not None
    }
    first, second = (leads.get(order) for order in BOTH_ORDERS)
    return None if first is None or second is None else (first, second)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    try:
        return correlation(first, second)
    except StatisticsError:  # fewer than two rows, or one that never changes
        return None
