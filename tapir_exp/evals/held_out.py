"""Compare a student with its predecessor on held-out instructions: win rate, perplexity and change of the loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tapir_exp.core.records import ResponseLoss, Verdict
from tapir_exp.evals.statistics import Interval, t_interval

GAP_RANGE = 18.0
"""Distance from the lowest gap of two scores (-9) to the highest (9)."""
TIE_MARGIN = 0.05
"""Preferences within this distance of 0.5 are ties."""


@dataclass(frozen=True)
class HeadToHead:
    """Result of a student against its predecessor.

    Attributes:
        win_rate: Mean preference, 0 to 1, with its t interval over the instructions; None if nothing was scored. It
            is soft, like the win rate of AlpacaEval 2.0. Each preference is the mean over both presentation orders.
        won: Instructions on which the student is preferred.
        tied: Instructions without a clear preference.
        lost: Instructions on which the predecessor is preferred.
        unscored: Instructions without scores.
    """

    win_rate: Interval | None
    won: int
    tied: int
    lost: int
    unscored: int


def preferences(verdicts: Sequence[Verdict]) -> list[float]:
    """Return the judge's preference for the later student on each scored instruction, 0 to 1."""
    # The predecessor has the role of the teacher, so a positive gap is a preference against the later student.
    return [0.5 - verdict.gap / GAP_RANGE for verdict in verdicts if verdict.gap is not None]


def head_to_head(verdicts: Sequence[Verdict]) -> HeadToHead:
    """Compare a student with its predecessor, which has the role of the teacher in the verdicts."""
    shares = preferences(verdicts)
    won, lost = (sum(sign * (share - 0.5) > TIE_MARGIN for share in shares) for sign in (1, -1))
    rate = t_interval(shares) if shares else None
    return HeadToHead(rate, won, len(shares) - won - lost, lost, len(verdicts) - len(shares))


def perplexity(losses: Sequence[ResponseLoss]) -> float | None:
    """Return exp of the mean loss per token of the teacher's responses; None if no loss was measured."""
    known = [(row.instructed, row.tokens) for row in losses if row.instructed is not None]
    tokens = sum(count for _, count in known)
    return math.exp(math.fsum(loss * count for loss, count in known) / tokens) if tokens else None


def loss_change(before: Sequence[ResponseLoss], after: Sequence[ResponseLoss]) -> Interval | None:
    """Return the mean change of the loss per response, with its t interval.

    Args:
        before: Losses of the predecessor.
        after: Losses of the student; rows are paired by id.

    Returns:
        The change in nats per token, negative if the loss fell; None without a pair.
    """
    # Rows without a loss on either side have no pair.
    first = {row.id: row.instructed for row in before}
    pairs = [
        (row.instructed, old) for row in after if row.instructed is not None and (old := first.get(row.id)) is not None
    ]
    return t_interval([new - old for new, old in pairs]) if pairs else None
