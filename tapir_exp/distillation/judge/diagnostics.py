"""Reliability of a judge, measured on its own verdicts: position bias, length preference, ties. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from statistics import StatisticsError, correlation, fmean, stdev

from tapir_exp.core.records import Verdict
from tapir_exp.distillation.judge.noise import both_leads, estimate_noise


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of the two responses to one instruction, in characters."""

    teacher: int
    student: int

    @property
    def log_ratio(self) -> float:
        """Logarithm of the teacher's length over the student's; an empty response counts as one character."""
        return log(max(1, self.teacher) / max(1, self.student))


@dataclass(frozen=True)
class JudgeDiagnostics:
    """Diagnostics of a judge; a figure that its verdicts do not determine is None.

    Attributes:
        unscored: Share of the rows without a score.
        ties: Share of the scored rows with gap 0.
        flips: Rows scored in both orders in which the two orders have different winners.
        flip_share: Their share of the rows scored in both orders.
        position_bias: Points that a response gains by being shown first: half the difference between the gaps of the
            two orders, averaged over these rows.
        position_bias_se: Standard error of the position bias.
        longer_wins: Share of wins of the longer response, among rows with a winner and different lengths.
        length_correlation: Pearson correlation of the gap and the logarithm of the length ratio, teacher over student.
        reliability: Share of the variance of the gaps that is no noise of the judge, by the disagreement of the orders.
        gap_noise: Standard deviation of that noise, in points.
    """

    unscored: float
    ties: float | None
    flips: int
    flip_share: float | None
    position_bias: float | None
    position_bias_se: float | None
    longer_wins: float | None
    length_correlation: float | None
    reliability: float | None = None
    gap_noise: float | None = None


def diagnose_judge(verdicts: Sequence[Verdict], lengths: Mapping[str, Lengths]) -> JudgeDiagnostics:
    """Return the diagnostics of a judge.

    Args:
        verdicts: Its verdicts.
        lengths: Lengths of the judged responses by row id.
    """
    gaps = {verdict.id: verdict.gap for verdict in verdicts if verdict.gap is not None}
    leads = [lead for verdict in verdicts if (lead := both_leads(verdict)) is not None]
    # Being shown first adds the bias to the teacher's lead in one order, and subtracts it in the other.
    biases = [(first - second) / 2 for first, second in leads]
    flips = sum(first * second < 0 for first, second in leads)
    longer_won = [
        (gap > 0) == (lengths[row_id].log_ratio > 0)
        for row_id, gap in gaps.items()
        if gap and lengths[row_id].log_ratio
    ]
    noise = estimate_noise(verdicts)
    return JudgeDiagnostics(
        unscored=1 - len(gaps) / len(verdicts) if verdicts else 0.0,
        ties=_mean([gap == 0 for gap in gaps.values()]),
        flips=flips,
        flip_share=flips / len(leads) if leads else None,
        position_bias=_mean(biases),
        position_bias_se=stdev(biases) / sqrt(len(biases)) if len(biases) > 1 else None,
        longer_wins=_mean(longer_won),
        reliability=None if noise is None else noise.reliability,
        gap_noise=None if noise is None else sqrt(noise.noise),
        length_correlation=_correlation([lengths[row_id].log_ratio for row_id in gaps], list(gaps.values())),
    )


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    try:
        return correlation(first, second)
    except StatisticsError:  # fewer than two rows, or a constant
        return None
