"""Noise of a judge's gaps, from the disagreement of its two presentation orders, and gaps shrunk by it. Pure; ours.

A verdict has two leads of the teacher, one in each order. Their difference holds no true gap: it is twice the position
bias plus the noise of both. With the variance D of the difference over rows, the mean of the two leads has the noise
variance s² = D / 4. With the variance V of the gaps, the share r = 1 - s² / V of it is true. This r is the reliability
that a split into halves with the formula of Spearman and Brown estimates.

Let m be the mean gap. For normal true gaps and noise, the true gap of a row with gap g has mean m + r (g - m) and
variance r s². A row whose orders disagree is noisier than others. So s² is estimated for each row from its own
difference and from all rows, which weigh as much as `PRIOR_ROWS` rows.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import erf, sqrt
from statistics import fmean, pvariance

from tapir_exp.core.records import BOTH_ORDERS, PresentationOrder, Verdict

PRIOR_ROWS = 3
"""Weight of the noise of all rows in the estimate for one row, in rows."""
MIN_ROWS = 10
"""Rows scored in both orders below which no noise is estimated."""


@dataclass(frozen=True)
class GapNoise:
    """Noise of the gaps of a set of verdicts.

    Attributes:
        rows: Rows scored in both orders.
        mean: Their mean gap, in points.
        variance: Variance of their gaps, in points squared.
        noise: Variance of the noise of a gap, in points squared.
        bias: Mean difference of the leads of both orders, in points: twice the position bias.
    """

    rows: int
    mean: float
    variance: float
    noise: float
    bias: float

    @property
    def reliability(self) -> float:
        """Share of the variance of the gaps that is no noise, 0 to 1."""
        return max(0.0, 1 - self.noise / self.variance) if self.variance else 0.0

    def row_noise(self, difference: float) -> float:
        """Return the variance of the noise of the gap of a row, from the difference of its leads."""
        own = ((difference - self.bias) / 2) ** 2
        return (PRIOR_ROWS * self.noise + own) / (PRIOR_ROWS + 1)

    def posterior(self, gap: float, difference: float) -> tuple[float, float]:
        """Return mean and standard deviation of the true gap of a row."""
        noise = self.row_noise(difference)
        true = max(0.0, self.variance - self.noise)
        share = true / (true + noise) if true + noise else 0.0
        return self.mean + share * (gap - self.mean), sqrt(share * noise)


def order_leads(verdict: Verdict) -> dict[PresentationOrder, float]:
    """Return the teacher's lead in points by order of a pair, averaged over samples and judges.

    Without a score of the verdict, an order with a failed reply has no lead, although other replies have scores.
    """
    found, failed = defaultdict[PresentationOrder, list[float]](list), set[PresentationOrder]()
    for reply in verdict.replies:
        if reply.teacher is not None and reply.student is not None:
            found[reply.order].append(reply.teacher - reply.student)
        elif verdict.gap is None:
            failed.add(reply.order)
    return {order: fmean(leads) for order, leads in found.items() if order not in failed}


def both_leads(verdict: Verdict) -> tuple[float, float] | None:
    """Return the teacher's lead in points if shown first, and if shown second; None unless both are scored."""
    leads = order_leads(verdict)
    first, second = (leads.get(order) for order in BOTH_ORDERS)
    return None if first is None or second is None else (first, second)


def estimate_noise(verdicts: Sequence[Verdict]) -> GapNoise | None:
    """Return the noise of the gaps; None with fewer than `MIN_ROWS` rows scored in both orders."""
    leads = [pair for verdict in verdicts if (pair := both_leads(verdict)) is not None]
    if len(leads) < MIN_ROWS:
        return None
    gaps = [(first + second) / 2 for first, second in leads]
    differences = [first - second for first, second in leads]
    return GapNoise(len(leads), fmean(gaps), pvariance(gaps), pvariance(differences) / 4, fmean(differences))


def expected_false_rows(verdicts: Sequence[Verdict], noise: GapNoise, delta: float) -> tuple[int, float]:
    """Return the rows with a gap above delta, and how many of them are expected to have a true gap of at most delta."""
    chosen = [
        (gap, leads)
        for verdict in verdicts
        if (gap := verdict.gap) is not None and gap > delta and (leads := both_leads(verdict)) is not None
    ]
    return len(chosen), sum(_below(delta, *noise.posterior(gap, first - second)) for gap, (first, second) in chosen)


def shrunk_gaps(verdicts: Sequence[Verdict], z: float, *, shrink: bool) -> dict[str, float]:
    """Return the bound by row id that the true gap exceeds with the probability that belongs to `z`.

    Args:
        verdicts: Verdicts in both orders. Rows without both, or too few rows to estimate noise, keep their gaps.
        z: Quantile of the standard normal distribution; 0 returns the shrunk gap, or the gap.
        shrink: Whether the gap is shrunk to the mean first (posterior); otherwise the bound is gap - z s.
    """
    noise = estimate_noise(verdicts)
    bounds = {}
    for verdict in verdicts:
        if verdict.gap is None:
            continue
        leads = both_leads(verdict)
        if noise is None or leads is None:
            bounds[verdict.id] = verdict.gap
            continue
        difference = leads[0] - leads[1]
        mean, deviation = noise.posterior(verdict.gap, difference)
        if not shrink:
            mean, deviation = verdict.gap, sqrt(noise.row_noise(difference))
        bounds[verdict.id] = mean - z * deviation
    return bounds


def _below(threshold: float, mean: float, deviation: float) -> float:
    """Return the probability that a normal variable is at most a threshold."""
    if deviation == 0:
        return float(mean <= threshold)
    return (1 + erf((threshold - mean) / (deviation * sqrt(2)))) / 2
