"""Agreement of a judge with labels by people, and what its gaps are worth. Pure.

A verdict is right if the answer that people prefer has the higher score. Pairs that people call a tie count for kappa
only. Shares have Wilson intervals, means t intervals, and kappa a percentile bootstrap over pairs.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tapir_exp.evals.labelled_pairs import FIRST, SECOND, TIE
from tapir_exp.evals.statistics import LEVEL, Interval, t_interval, wilson_interval

EDGES = (0.0, 1.0, 2.0, 3.0, 5.0, 9.0)
"""Bounds of the bins of the reliability curve, in points; a bin holds its upper bound."""
RESAMPLES = 500
"""Bootstrap samples of the interval of kappa."""


@dataclass(frozen=True)
class JudgedPair:
    """A judge's verdict on a labelled pair.

    Attributes:
        label: `FIRST`, `SECOND` or `TIE`, by people.
        leads: Points by which the first answer is better, when it is shown first and when it is shown second; None for
            an order without a score. The same twice if each answer was judged alone.
        lengths: Characters of the two answers.
        graded: Whether the points have a size; False for a judge that only names the better answer.
        alone: Whether each answer was judged alone, so that no position can matter.
        failed: Whether a judge of single answers returned no score; LLMBar counts such a pair as right in one order.
        origins: Who wrote each answer; empty if unknown.
    """

    label: int
    leads: tuple[float | None, float | None]
    lengths: tuple[int, int]
    graded: bool = True
    alone: bool = False
    failed: bool = False
    origins: tuple[str, str] = ("", "")

    @property
    def gap(self) -> float | None:
        """Mean lead over the orders; None if an order has no score, as for a verdict of a run."""
        first, second = self.leads
        return None if first is None or second is None else (first + second) / 2

    @property
    def verdict(self) -> int | None:
        """Return the better answer by the judge; None if it is unscored."""
        return None if self.gap is None else _winner(self.gap)


@dataclass(frozen=True)
class GapBin:
    """Pairs whose absolute gap lies in (low, high].

    Attributes:
        low: Lower bound in points.
        high: Upper bound in points.
        rows: Pairs in the bin.
        gap: Mean absolute gap.
        right: Share of right verdicts.
    """

    low: float
    high: float
    rows: int
    gap: float
    right: Interval


@dataclass(frozen=True)
class LLMBarStatistics:
    """The figures that LLMBar publishes for an evaluator, computed as its code computes them.

    Attributes:
        rows: Number of pairs.
        correct_first: Pairs that are right in the given order.
        correct_swapped: Pairs that are right in the swapped order.
        correct_both: Pairs that are right in both.
        equal: Pairs with the same winner in both.
        kappa_first: Cohen's kappa of verdicts and labels in the given order. LLMBar's code writes every winner but "1"
            as 0, while labels are 1 and 2, so this is no agreement beyond chance; `JudgeAgreement.kappa` is.
        kappa_swapped: The same in the swapped order.
        kappa_agreement: Cohen's kappa of the two orders.
    """

    rows: int
    correct_first: int
    correct_swapped: int
    correct_both: int
    equal: int
    kappa_first: float
    kappa_swapped: float
    kappa_agreement: float

    @property
    def correct_average(self) -> float:
        """Share of right verdicts over both orders."""
        return (self.correct_first + self.correct_swapped) / 2 / self.rows

    @property
    def kappa_average(self) -> float:
        """Mean of the kappas of both orders."""
        return (self.kappa_first + self.kappa_swapped) / 2


@dataclass(frozen=True)
class JudgeAgreement:
    """Figures of a judge on labelled pairs; a figure that the pairs do not determine is None.

    Attributes:
        rows: Pairs with a label other than a tie.
        tied_labels: Pairs that people call a tie; only kappa and the figures of the position count them.
        unscored: Share of the rows without a verdict.
        right: Share of the rows in which the judge prefers the answer that people prefer.
        ties: Share of the rows with gap 0.
        wrong: Share of the rows in which it prefers the other answer.
        accuracy: Right among the rows with a winner.
        accuracy_by_order: Right in each order, of the rows scored in it; ties count as wrong.
        consistent: Share of the rows with the same verdict in both orders; None if each answer was judged alone.
        delta: Threshold of the hard set, in points.
        above_delta: Right among the rows with an absolute gap above delta.
        reliability: Right by absolute gap; empty if gaps have no size.
        first_wins: Share of wins of the answer shown first, over both orders.
        position_bias: Points that an answer gains by being shown first.
        longer_wins: Share of wins of the longer answer, among rows with a winner.
        right_if_longer: Right among the rows with a winner in which people prefer the longer answer.
        right_if_shorter: The same for the shorter answer.
        kappa: Cohen's kappa of verdicts and labels over first, second and tie.
        llmbar: LLMBar's own figures; None without rows.
    """

    rows: int
    tied_labels: int
    unscored: Interval
    right: Interval
    ties: Interval
    wrong: Interval
    accuracy: Interval | None
    accuracy_by_order: tuple[Interval | None, Interval | None]
    consistent: Interval | None
    delta: float
    above_delta: Interval | None
    reliability: tuple[GapBin, ...]
    first_wins: Interval | None
    position_bias: Interval | None
    longer_wins: Interval | None
    right_if_longer: Interval | None
    right_if_shorter: Interval | None
    kappa: Interval | None
    llmbar: LLMBarStatistics


def measure_judge(pairs: Sequence[JudgedPair], delta: float, seed: int = 0) -> JudgeAgreement:
    """Return the figures of a judge.

    Args:
        pairs: Its verdicts.
        delta: Threshold of the hard set, in points.
        seed: Seed of the bootstrap of kappa.

    Raises:
        ValueError: If no pair has a label other than a tie.
    """
    rows = [pair for pair in pairs if pair.label != TIE]
    if not rows:
        raise ValueError("cannot measure a judge without a pair that people decided")
    n = len(rows)
    right = sum(pair.verdict == pair.label for pair in rows)
    ties = sum(pair.verdict == TIE for pair in rows)
    unscored = sum(pair.verdict is None for pair in rows)
    decided = [pair for pair in rows if pair.verdict in (FIRST, SECOND)]
    graded = [pair for pair in decided if pair.graded]
    swapped = [pair for pair in pairs if not pair.alone and None not in pair.leads]
    return JudgeAgreement(
        rows=n,
        tied_labels=len(pairs) - n,
        unscored=wilson_interval(unscored, n),
        right=wilson_interval(right, n),
        ties=wilson_interval(ties, n),
        wrong=wilson_interval(n - right - ties - unscored, n),
        accuracy=_share(decided, _is_right),
        accuracy_by_order=(_right_in_order(rows, 0), _right_in_order(rows, 1)),
        consistent=_share(
            [p for p in swapped if p.label != TIE],
            lambda pair: len({_winner(lead) for lead in pair.leads if lead is not None}) == 1,
        ),
        delta=delta,
        above_delta=_share([pair for pair in graded if abs(pair.gap or 0) > delta], _is_right),
        reliability=_reliability(graded),
        # A bias needs no label, and pairs of equal answers show it best.
        first_wins=_first_wins(swapped),
        position_bias=_position_bias([pair for pair in swapped if pair.graded]),
        longer_wins=_share([p for p in decided if p.lengths[0] != p.lengths[1]], lambda p: p.verdict == _longer(p)),
        right_if_longer=_share([pair for pair in decided if pair.label == _longer(pair)], _is_right),
        right_if_shorter=_share([p for p in decided if _longer(p) not in (TIE, p.label)], _is_right),
        kappa=_bootstrap_kappa(pairs, seed),
        llmbar=llmbar_statistics(rows),
    )


def llmbar_statistics(pairs: Sequence[JudgedPair]) -> LLMBarStatistics:
    """Return LLMBar's figures. In its code, a tie of two scores counts for the answer that is shown second.

    Source: `LLMEvaluator/evaluate.py` of princeton-nlp/LLMBar.
    """
    winners = [_llmbar_winners(pair) for pair in pairs]
    labels = [pair.label for pair in pairs]
    coded = [[1 if winner == FIRST else 0 for winner in column] for column in zip(*winners, strict=True)]
    right = [
        [winner == label for winner, label in zip(column, labels, strict=True)] for column in zip(*winners, strict=True)
    ]
    return LLMBarStatistics(
        rows=len(pairs),
        correct_first=sum(right[0]),
        correct_swapped=sum(right[1]),
        correct_both=sum(map(all, zip(*right, strict=True))),
        equal=sum(first == second for first, second in winners),
        kappa_first=cohen_kappa(coded[0], labels),
        kappa_swapped=cohen_kappa(coded[1], labels),
        kappa_agreement=cohen_kappa(coded[0], coded[1]),
    )


def cohen_kappa(first: Sequence[int | None], second: Sequence[int | None]) -> float:
    """Return Cohen's kappa of two series of labels (Cohen, 1960); 1 if both are one and the same constant.

    Raises:
        ValueError: If there are no labels, or the series differ in length.
    """
    n = len(first)
    if not n:
        raise ValueError("kappa needs at least one pair of labels")
    # As scikit-learn computes it, to its last digit: disagreement over expected disagreement.
    values = sorted({*first, *second}, key=str)
    observed = sum(a != b for a, b in zip(first, second, strict=True))
    expected = sum(first.count(a) * second.count(b) / n for a in values for b in values if a != b)
    return 1 - observed / expected if expected else 1.0


def _winner(lead: float) -> int:
    return TIE if lead == 0 else FIRST if lead > 0 else SECOND


def _longer(pair: JudgedPair) -> int:
    return _winner(pair.lengths[0] - pair.lengths[1])


def _is_right(pair: JudgedPair) -> bool:
    return pair.verdict == pair.label


def _share(pairs: Sequence[JudgedPair], test: Callable[[JudgedPair], bool]) -> Interval | None:
    return wilson_interval(sum(map(test, pairs)), len(pairs)) if pairs else None


def _right_in_order(rows: Sequence[JudgedPair], order: int) -> Interval | None:
    leads = [(lead, pair.label) for pair in rows if (lead := pair.leads[order]) is not None]
    return wilson_interval(sum(_winner(lead) == label for lead, label in leads), len(leads)) if leads else None


def _reliability(graded: Sequence[JudgedPair]) -> tuple[GapBin, ...]:
    bins = []
    for low, high in pairwise(EDGES):
        inside = [pair for pair in graded if low < abs(pair.gap or 0) <= high]
        share = _share(inside, _is_right)
        if share is not None:
            mean = sum(abs(pair.gap or 0) for pair in inside) / len(inside)
            bins.append(GapBin(low, high, len(inside), mean, share))
    return tuple(bins)


def _first_wins(paired: Sequence[JudgedPair]) -> Interval | None:
    # The second lead is from the order in which the first answer is shown second.
    shown_first = [lead > 0 for pair in paired for lead in (pair.leads[0] or 0.0, -(pair.leads[1] or 0.0)) if lead]
    return wilson_interval(sum(shown_first), len(shown_first)) if shown_first else None


def _position_bias(paired: Sequence[JudgedPair]) -> Interval | None:
    biases = [((pair.leads[0] or 0.0) - (pair.leads[1] or 0.0)) / 2 for pair in paired]
    return t_interval(biases) if biases else None


def _bootstrap_kappa(pairs: Sequence[JudgedPair], seed: int) -> Interval | None:
    rows = [(pair.verdict, pair.label) for pair in pairs if pair.verdict is not None]
    if not rows:
        return None
    rng = random.Random(seed)
    drawn = sorted(cohen_kappa(*zip(*rng.choices(rows, k=len(rows)), strict=True)) for _ in range(RESAMPLES))
    low, high = (drawn[round(q * (RESAMPLES - 1))] for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(cohen_kappa(*zip(*rows, strict=True)), low, high, len(rows))


def _llmbar_winners(pair: JudgedPair) -> tuple[int | None, int | None]:
    """Return the winner in each order as LLMBar's code does."""
    if pair.failed:
        return FIRST, SECOND
    first, second = pair.leads
    return (
        None if first is None else _decide(first, pair, FIRST),
        None if second is None else _decide(second, pair, SECOND),
    )


def _decide(lead: float, pair: JudgedPair, shown_first: int) -> int:
    tie = SECOND if shown_first == FIRST else FIRST
    return _winner(lead) or tie
