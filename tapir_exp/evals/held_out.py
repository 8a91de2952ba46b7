"""What a student gained over the one before it, on instructions kept out of training. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tapir_exp.core.records import ResponseLoss, Verdict
from tapir_exp.evals.statistics import Interval, t_interval

GAP_RANGE = 18.0
"""From the lowest gap of two scores to the highest, in judge points."""
TIE_MARGIN = 0.05
"""Preferences this near to a half name no winner."""


@dataclass(frozen=True)
class HeadToHead:
    """A student beside the one before it.

    win_rate: the mean preference, 0 to 1, with its t interval over the instructions: the soft win rate of AlpacaEval
    2.0, the mean over both orders of each. won, tied, lost: instructions by their own preference. unscored: the rest.
    """

    win_rate: Interval | None
    won: int
    tied: int
    lost: int
    unscored: int


def preferences(verdicts: Sequence[Verdict]) -> list[float]:
    """How surely the judge prefers the later student, 0 to 1, on each row that was scored."""
    return [0.5 - verdict.gap / GAP_RANGE for verdict in verdicts if verdict.gap is not None]


def head_to_head(verdicts: Sequence[Verdict]) -> HeadToHead:
    """What the judge made of a student against the one before it, who stands in the teacher's place."""
    shares = preferences(verdicts)
    won, lost = (sum(sign * (share - 0.5) > TIE_MARGIN for share in shares) for sign in (1, -1))
    rate = t_interval(shares) if shares else None
    return HeadToHead(rate, won, len(shares) - won - lost, lost, len(verdicts) - len(shares))


def perplexity(losses: Sequence[ResponseLoss]) -> float | None:
    """exp of the mean loss of the tokens of the teacher's responses; None where none was measured."""
    known = [(row.instructed, row.tokens) for row in losses if row.instructed is not None]
    tokens = sum(count for _, count in known)
    return math.exp(math.fsum(loss * count for loss, count in known) / tokens) if tokens else None


def loss_change(before: Sequence[ResponseLoss], after: Sequence[ResponseLoss]) -> Interval | None:
    """By how much the mean loss of a response changed, nats per token, paired by row; below 0 it fell."""
    first = {row.id: row.instructed for row in before}
    pairs = [
        (row.instructed, old) for row in after if row.instructed is not None and (old := first.get(row.id)) is not None
    ]
    return t_interval([new - old for new, old in pairs]) if pairs else None
